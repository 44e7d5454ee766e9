"""Curves over the rounds of runs, and how they are smoothed."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedllm_app.report.run import Run

if TYPE_CHECKING:
    from fedllm_app.report.xaxis import XAxis

Curve = tuple[Sequence[float], Sequence[float]]


def over_rounds(runs: Sequence[Run], key: str, x: "XAxis") -> list[Curve] | None:
    """Return one curve per run of a number of its rounds, None if no run has a finite value."""
    curves: list[Curve] = [
        ([x.of(r) for r in run.rounds], [number(r.get(key)) for r in run.rounds]) for run in runs
    ]
    return curves if any(math.isfinite(y) for _, ys in curves for y in ys) else None


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Return the mean of each value and those before it, `window` in all; NaN is left out."""
    means = []
    for end in range(1, len(values) + 1):
        known = [v for v in values[max(0, end - window) : end] if math.isfinite(v)]
        means.append(sum(known) / len(known) if known else math.nan)
    return means


def window_of(curves: Sequence[Curve]) -> int:
    """Return over how many rounds to smooth: several noisy curves would hide each other."""
    rounds = max(len(x) for x, _ in curves)
    return max(1, rounds // (20 if len(curves) > 1 else 100))


def smoothed(window: int) -> str:
    """Say in a caption over how many rounds a curve is smoothed."""
    return f", running over {window} rounds" if window > 1 else ""


def number(value: object) -> float:
    """Return a value of a record as a number, NaN where it is none."""
    return float(value) if isinstance(value, int | float) else math.nan
