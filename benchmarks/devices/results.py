"""From finished runs to rows, what each costs on both fleets, and what the guide made of them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.devices.cells import (
    DERIVED,
    FLEETS,
    HELD_FLEET,
    Entry,
    Settings,
    advised,
    entries,
    held_grid,
    once,
)
from benchmarks.record import kept_rows, write_result
from benchmarks.study_kit.study import row_there_is
from fedllm_app.study.finished_runs import row_of
from fedllm_app.study.guide import Advice, advise
from fedllm_app.study.observed import Observed, Row, observed, of_one_size
from fedllm_app.study.on_fleet import GOALS, OnFleet
from fedllm_app.study.sweep import Cell

NAME, HELD = "reproduce-devices", "reproduce-devices-held-out"
NOWHERE: Settings = {"data.train": "org/data"}


def measured(entry: Entry, home: Path, known: Mapping[str, Row]) -> Row | None:
    """Return the row of a finished run; where its folder is not here, the row that is known.

    It names the keys that follow from others, which are no knobs of an advice.
    """

    def read(folder: Path) -> Row:
        return {"figure": entry.figure} | row_of(folder, entry.settings)

    row = row_there_is(entry.cell(NOWHERE), dict(entry.settings), home, known, read)
    if row is None:
        return None
    own = {"seconds": row["simulated-s"], "joules": row["energy-j"]}
    fleets = costs(observed(row)) or {"mixed": own}
    return row | {"fleets": fleets, "derived": list(DERIVED)}


def costs(run: Observed) -> dict[str, dict[str, float]]:
    """Return the seconds and joules of a whole run on both fleets, and on the held-out one."""
    if not run.portable:  # the fleet that it was played on alone
        return {}
    found = {}
    for name, fleet in (FLEETS | {"held out": HELD_FLEET}).items():
        if run.population > 1:
            spent = OnFleet(fleet).spent(run)
            found[name] = {"seconds": float(spent.time[-1]), "joules": float(spent.energy[-1])}
    return found


def kept(name: str) -> dict[str, Row]:
    """Return the rows of a results file by run, {} if there is none."""
    return {row["run"]: row for row in kept_rows(name)}


def rows_of(every: Iterable[Entry], home: Path, name: str) -> list[Row]:
    """Return the rows there are."""
    known = kept(name)
    return [row for entry in every if (row := measured(entry, home, known))]


def federated_of(rows: Iterable[Row]) -> list[Observed]:
    """Return the federated runs of rows that an advice may be chosen from."""
    runs = [run for run in map(observed, rows) if run.population > 1 and run.portable]
    return of_one_size(runs) if runs else []


def whole(home: Path) -> bool:
    """Say whether every run of the study is played, so that its advice stands."""
    return len(rows_of(entries(), home, NAME)) == len(entries())


def advices(rows: Sequence[Row], parameters: int) -> dict[str, Advice]:
    """Return the advice for the held-out fleet and a model of this size, by goal."""
    runs = federated_of(rows)
    fleet = OnFleet(HELD_FLEET, scale=parameters / runs[0].parameters)
    return {goal: advise(runs, fleet, goal) for goal in GOALS}


def held_entries(home: Path) -> list[Entry]:
    """Return the grid of the held-out model, and what the guide advises once the study is whole.

    The advice is for a size that the first runs of the grid tell; until then the grid stands alone.
    """
    grid = held_grid()
    first = rows_of(grid[:1], home, HELD)
    if not first or not whole(home):
        return grid
    found = advices(rows_of(entries(), home, NAME), first[0]["parameters"])
    asked = [advised(a.choice.setting.knobs, a.choice.of) for a in found.values()]
    known = [e.settings for e in grid]
    return once([*grid, *(e for e in asked if e.settings not in known)])


def left(stage: str, places: Settings, home: Path) -> list[Cell]:
    """Return the runs of a stage to play."""
    every, name = (held_entries(home), HELD) if stage == "held out" else (entries(), NAME)
    known = kept(name)
    return [
        e.cell(places) for e in every if e.stage == stage and measured(e, home, known) is None
    ]  # fmt: skip


def collect(home: Path) -> tuple[list[Row], list[Row]]:
    """Return all rows there are, those of the held-out model apart, and write them."""
    rows, held = rows_of(entries(), home, NAME), rows_of(held_entries(home), home, HELD)
    about: dict[str, Any] = {"fleets": FLEETS, "held-out fleet": HELD_FLEET}
    if rows:
        write_result(NAME, about, rows)
    if held:
        write_result(HELD, about, held)
    return rows, held
