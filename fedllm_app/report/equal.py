"""What runs sent until they were equally good: the savings that count."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedllm_app.core.units import DASH, format_bytes, format_metric, format_times, words
from fedllm_app.report.drawing import Series
from fedllm_app.report.run import Run
from fedllm_app.report.tables import Cell, Row, Table
from fedllm_app.run.metrics import Record

POINT = 0.01


@dataclass(frozen=True)
class Level:
    """The value that runs are compared at.

    Attributes
    ----------
    metric : its name.
    value : of the metric.
    run : whose bytes the others' are held against.
    why : where the value is from.
    """

    metric: str
    value: float
    run: Run
    why: str


def levels_of(runs: Sequence[Run]) -> list[Level]:
    """Return the values that runs are compared at, [] where they share no metric.

    The first is the dense run's final accuracy less one point. Where not all runs reach it, there
    is no dense run or the metric is another, it is the weakest of their best values, if they all
    had to learn for it.
    """
    metric = next((run.headline for run in runs if run.headline), "")
    best = [found[1] for run in runs if (found := run.best(metric))]
    if len(runs) < 2 or len(best) < len(runs):
        return []
    levels = []
    dense = next((run for run in runs if run.dense), None)
    name, final = words(metric).lower(), dense.final(metric) if dense else None
    if dense is not None and final is not None and "accuracy" in metric:
        why = f"the final {name} of {dense.name} less one point"
        levels.append(Level(metric, final - POINT, dense, why))
        if all(run.reached(metric, final - POINT) for run in runs):
            return levels
    weakest = max(best) if runs[0].falls(metric) else min(best)
    if any((run.reached(metric, weakest) or {}).get("round") == 0 for run in runs):
        return levels  # as good as that they were before they learnt
    why = f"the best {name} that all of these runs reach"
    return [*levels, Level(metric, weakest, dense or runs[0], why)]


def equal_tables(runs: Sequence[Run], looks: Sequence[Series]) -> list[Table]:
    """Return what each run had sent at the first evaluation that is as good as each level."""
    return [_table(runs, looks, level) for level in levels_of(runs)]


def _table(runs: Sequence[Run], looks: Sequence[Series], level: Level) -> Table:
    base = level.run.reached(level.metric, level.value)
    rows = []
    for run, look in zip(runs, looks, strict=True):
        found = run.reached(level.metric, level.value)
        cells = [Cell("not reached"), *[Cell(DASH)] * 3]
        if found is not None:
            sums = [_against(found, base, keys) for keys in (UP, DOWN, (*UP, *DOWN))]
            cells = [Cell(str(found["round"])), *sums]
        rows.append(Row([Cell(look.label), *cells], look.colour))
    name, value = words(level.metric).lower(), format_metric(level.value)
    note = (
        f"Bytes so far at the first evaluation at least as good as {value}, {level.why}; saved "
        f"and times less are against {level.run.name} at its own first such evaluation."
    )
    head = ["Run", "In round", "Upload", "Download", "Both"]
    return Table(f"Bytes at equal {name}: {value}", head, rows, note, look="runs", first=True)


UP, DOWN = ("up-bytes",), ("down-bytes",)


def _against(found: Record, base: Record | None, keys: Sequence[str]) -> Cell:
    """Return bytes so far, and how many fewer than those of the run compared with."""
    sent = sum(int(found.get(key) or 0) for key in keys)
    if not sent or base is None or base is found:
        return Cell(format_bytes(sent) if sent else DASH)
    other = sum(int(base.get(key) or 0) for key in keys)
    if sent > other:
        return Cell(format_bytes(sent), f"{format_bytes(sent - other)} more")
    saved = f"{format_bytes(other - sent)} saved, {format_times(other, sent)} less"
    return Cell(format_bytes(sent), saved)
