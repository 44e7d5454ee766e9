"""From finished runs to rows."""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.photon.cells import Entry, Rates, Settings, entries, trials
from benchmarks.photon.claims import Row
from benchmarks.photon.document import write
from benchmarks.record import kept_rows, write_result
from fedllm_app.core.errors import FedllmError
from fedllm_app.run.metrics import read_lines
from fedllm_app.study.sweep import Cell, finished

NAME = "reproduce-photon"
NOWHERE: Settings = {"data.train": "org/data"}
RATE = {"photon": "client.lr", "diloco": "server.lr", "sparse": "server.lr"}


def best_rates(home: Path) -> Rates:
    """Return the rates of the best trials; who has trials to come is left out."""
    rates: dict[str, Settings] = {}
    known, every = kept(), list(trials())
    for method in dict.fromkeys(entry.figure for entry in every):
        own = [entry for entry in every if entry.figure == method]
        rows = [measured(entry, rates, home, known) for entry in own]
        if all(rows):
            best = min((row for row in rows if row), key=lambda row: float(row["loss"]))
            key = RATE.get(method, "client.lr")
            chosen = next(e for e in own if e.name == best["run"]).settings[key]
            rates[method] = {**rates.get("photon", {}), key: chosen}
    return rates


def measured(entry: Entry, rates: Rates, home: Path, known: Mapping[str, Row]) -> Row | None:
    """Return what a finished run measured; where its folder is not here, the row that is known."""
    cell = entry.cell(rates, NOWHERE)
    folder = home / "runs" / entry.name
    if cell is None:
        return None
    if not folder.exists():
        row = known.get(entry.name)
        return row if row and row["settings"] == dict(cell.settings) else None
    try:
        if not finished(cell, home):
            return None
    except FedllmError as error:
        print(f"left out: {error}")
        return None
    records = read_lines(folder / "metrics.jsonl")
    evaluated = [r for r in records if r.get("evaluation")]
    last = records[-1] if "up-bytes" in records[-1] else records[-2]
    return {
        "run": entry.name, "figure": entry.figure, "settings": dict(cell.settings),
        "loss": evaluated[-1]["evaluation"]["loss"],
        "perplexity": evaluated[-1]["evaluation"]["perplexity"],
        "curve": {str(r["round"]): r["evaluation"]["loss"] for r in evaluated},
        **{key: last.get(key, 0) for key in ("tokens", "up-bytes", "down-bytes", "simulated-s")},
    }  # fmt: skip


def left(stage: str, places: Settings, home: Path) -> list[Cell]:
    """Return the runs of a stage to play: rates known, and no row of the same settings kept."""
    rates, known = best_rates(home), kept()
    return [
        cell
        for entry in (*trials(), *entries())
        if entry.stage == stage
        and (cell := entry.cell(rates, places)) is not None
        and measured(entry, rates, home, known) is None
    ]


def kept() -> dict[str, Row]:
    """Return the rows of the results file by run, {} if there is none."""
    return {row["run"]: row for row in kept_rows(NAME)}


def collect(home: Path) -> list[Row]:
    """Return all rows there are, and write them."""
    rates, known = best_rates(home), kept()
    rows = [row for e in (*trials(), *entries()) if (row := measured(e, rates, home, known))]
    if rows:
        write_result(NAME, {"rates": {name: dict(own) for name, own in rates.items()}}, rows)
        write(rows)
    return rows
