"""What `fedllm plan` prints and writes: the table of candidates, the ranking, JSON, the recipe."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fedllm_app.config import RunConfig
from fedllm_app.core.units import format_bytes, format_joules, format_metric, format_seconds
from fedllm_app.study.budget import Budget, show
from fedllm_app.study.halving import spent_by
from fedllm_app.study.pilot import Pilot
from fedllm_app.study.planner import Candidate, fraction, label

ORDER = (
    "Order: whole runs first, then by coordinates moved, both ways, in the rounds that fit; of "
    "equal ones the cheaper."
)


def print_candidates(
    console: Console, candidates: Sequence[Candidate], tried: int, budget: Budget, rows: int
) -> None:
    """Print the candidates that fit; the columns are the keys that differ.

    Parameters
    ----------
    tried : how many were predicted.
    budget : that they fit into.
    rows : how many to print.
    """
    varied, same = split_keys([c.settings for c in candidates])
    limits = ", ".join(f"{show(name, limit)} ({name})" for name, limit in budget.limits.items())
    reach = "in every round" if budget.per_round else "in all"
    say(console, f"{len(candidates)} of {tried} configurations fit into {limits} {reach}. {ORDER}")
    if same:
        say(console, f"All have {label(same)}.")
    counted = budget.base and not budget.per_round
    timed = any(c.costs.seconds.any() for c in candidates)
    base = "base" if counted else "base (not counted)"
    shown = [(candidate, totals(candidate)) for candidate in candidates[:rows]]
    bases = [_base(t, timed) for _, t in shown]
    apart = len(set(bases)) > 1
    if not apart:
        say(console, f"The {base}, once for each client: {', '.join(bases[0])}.")
    metered = any(c.costs.energy_j.any() for c in candidates)
    heads = ["rounds", "up", "down", "all", *(["time"] if timed else [])]
    heads += ["energy"] if metered else []
    heads += [base, *(["base's time"] if timed else [])] if apart else []
    table = _table([*map(_name, varied), *heads])
    for (candidate, t), own in zip(shown, bases, strict=True):
        of = "" if candidate.whole else f" of {candidate.config.run.rounds}"
        both = t["up_bytes"] + t["down_bytes"] + t["base_bytes"] * counted
        table.add_row(
            *(fraction(candidate.settings[key]) for key in varied),
            f"{candidate.fits}{of}",
            *map(format_bytes, (t["up_bytes"], t["down_bytes"], both)),
            *([format_seconds(t["seconds"])] if timed else []),
            *([format_joules(t["energy_j"])] if metered else []),
            *(own if apart else ()),
        )
    console.print(table)
    if len(candidates) > rows:
        say(console, f"{len(candidates) - rows} more: --show, or --json FILE.")


def _base(t: Mapping[str, float], timed: bool) -> tuple[str, ...]:
    """Return what the base costs in bytes and, where there are links, in time."""
    return format_bytes(t["base_bytes"]), *([format_seconds(t["base_s"])] if timed else [])


def print_pilots(console: Console, pilots: Sequence[Pilot], budget: Budget, metric: str) -> None:
    """Print the ranking of the short runs and what they cost, by limit of the budget."""
    varied, _ = split_keys([pilot.candidate.settings for pilot in pilots])
    names = list(budget.limits)
    table = _table(["", *map(_name, varied), metric, "rounds", *(f"spent ({n})" for n in names)])
    for place, run in enumerate(pilots, start=1):
        table.add_row(
            str(place),
            *(fraction(run.candidate.settings[key]) for key in varied),
            format_metric(run.value),
            str(run.until(run.rung)),
            *(show(name, run.spent[name]) for name in names),
        )
    console.print(table)
    spent = spent_by(pilots, budget)
    words = (f"{show(n, spent[n])} of {show(n, limit)} ({n})" for n, limit in budget.limits.items())
    say(console, f"Spent on short runs: {', '.join(words)}.")


def write_winner(
    console: Console, winner: Pilot, share: float, metric: str, out: Path | None
) -> None:
    """Name the winner, and write its whole configuration with the rounds that fit."""
    best = winner.candidate
    # As it was piloted: what was automatic hung on the rounds asked for.
    config = RunConfig.parse(best.config.resolved().flat() | {"run.rounds": best.fits})
    say(console, f"Winner: {label(best.settings)}; {best.fits} rounds fit into what is left.")
    if out is None:
        return
    head = (
        f"# Chosen by `fedllm plan --pilot {share:g}`: {label(best.settings)}.\n"
        f"# {metric} {format_metric(winner.value)} on held-out training data after "
        f"{winner.until(winner.rung)} rounds.\n"
    )
    out.write_text(head + config.toml(), "utf-8")
    say(console, f"Run it: fedllm run {out}")


def write_json(
    path: Path,
    config: RunConfig,
    budget: Budget,
    candidates: Sequence[Candidate],
    pilots: Sequence[Pilot],
    metric: str,
) -> None:
    """Write every candidate, and the pilot if there was one."""
    content = {
        "budget": asdict(budget),
        "config": config.flat(),
        "candidates": [_record(candidate) for candidate in candidates],
        "pilot": [
            _record(pilot.candidate)
            | {
                "run": pilot.config.run.name,
                metric: pilot.value if math.isfinite(pilot.value) else None,
                "played-rounds": pilot.until(pilot.rung),
                "spent": dict(pilot.spent),
            }
            for pilot in pilots
        ],
    }
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def totals(candidate: Candidate) -> dict[str, float]:
    """Return the sums of its costs over the rounds that fit."""
    return {name: each.sum().item() for name, each in vars(candidate.affordable).items()}


def split_keys(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], dict[str, Any]]:
    """Return the keys that differ, and those that do not with their one value."""
    differ = [key for key in rows[0] if len({row[key] for row in rows}) > 1]
    return differ, {key: value for key, value in rows[0].items() if key not in differ}


def say(console: Console, text: str) -> None:
    """Print a sentence as it is: no markup, no colours of numbers."""
    console.print(text, markup=False, highlight=False)


def _table(heads: Iterable[str]) -> Table:
    table = Table()
    for head in heads:
        table.add_column(head, justify="right")
    return table


def _name(key: str) -> str:
    return key.partition(".")[2]


def _record(candidate: Candidate) -> dict[str, Any]:
    names = {"rounds": candidate.fits, "of": candidate.config.run.rounds}
    sums = {name.replace("_", "-"): value for name, value in totals(candidate).items()}
    return {"settings": dict(candidate.settings), **names, **sums}
