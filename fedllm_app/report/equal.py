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


def level_of(runs: Sequence[Run]) -> Level | None:
    """Return the value that runs are compared at; None where they share no metric.

    It is the first dense run's final accuracy less one point. Without one, or for another metric,
    it is the weakest of the runs' best values, which all of them reach.
    """
    metric = next((run.headline for run in runs if run.headline), "")
    best = [run.best(metric) for run in runs]
    values = [found[1] for found in best if found]
    if len(runs) < 2 or len(values) < len(runs):
        return None
    dense = next((run for run in runs if run.dense), None)
    name, final = words(metric).lower(), dense.final(metric) if dense else None
    if dense is not None and final is not None and "accuracy" in metric:
        return Level(
            metric, final - POINT, dense, f"the final {name} of {dense.name} less one point"
        )
    weakest = max(values) if runs[0].falls(metric) else min(values)
    return Level(metric, weakest, dense or runs[0], f"the best {name} that all of these runs reach")


def equal_table(runs: Sequence[Run], looks: Sequence[Series]) -> Table | None:
    """Return what each run had sent at the first evaluation that is as good as the level."""
    level = level_of(runs)
    if level is None:
        return None
    base = level.run.reached(level.metric, level.value)
    rows = []
    for run, look in zip(runs, looks, strict=True):
        found = run.reached(level.metric, level.value)
        if found is None or "up-bytes" not in found:
            rows.append(
                Row([Cell(look.label), Cell("not reached"), *[Cell(DASH)] * 3], look.colour)
            )
            continue
        cells = [_against(found, base, keys) for keys in (UP, DOWN, (*UP, *DOWN))]
        rows.append(Row([Cell(look.label), Cell(str(found["round"])), *cells], look.colour))
    note = (
        f"Bytes so far at the first evaluation of {words(level.metric).lower()} at least as good "
        f"as {format_metric(level.value)}: {level.why}. What is saved is held against "
        f"{level.run.name} at its own first such evaluation."
    )
    head = ["Run", "In round", "Upload", "Download", "Both"]
    return Table("Bytes at equal accuracy", head, rows, note, look="runs", first=True)


UP, DOWN = ("up-bytes",), ("down-bytes",)


def _against(found: Record, base: Record | None, keys: Sequence[str]) -> Cell:
    """Return bytes so far, and how many fewer than those of the run compared with."""
    sent = sum(int(found.get(key) or 0) for key in keys)
    if base is None or base is found:
        return Cell(format_bytes(sent))
    other = sum(int(base.get(key) or 0) for key in keys)
    saved = f"{format_bytes(abs(other - sent))} {'saved' if other >= sent else 'more'}"
    return Cell(format_bytes(sent), f"{saved}, {format_times(other, sent)}")
