"""Plot how well a run or several runs learnt, against rounds and against bytes.

Every function returns a `Plot`; one that has nothing to show has no drawing and says why.
What bytes and seconds were spent on is drawn in costs.py.
"""

import math
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from fedllm_app.report import costs, drawing
from fedllm_app.report.drawing import Plot, Series
from fedllm_app.report.run import Run
from fedllm_app.report.units import format_metric, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = tuple[Sequence[float], Sequence[float]]


def all_plots(runs: Sequence[Run], looks: Sequence[Series]) -> list[Plot]:
    """Return the figures of a page, for one run or for a comparison."""
    if find_spec("matplotlib") is None:
        return [Plot("Plots", "matplotlib is not installed: pip install matplotlib")]
    quality = []
    for metric in dict.fromkeys(run.headline for run in runs if run.headline):
        quality += [
            metric_by_round(runs, looks, metric),
            metric_by_bytes(runs, looks, metric, "up"),
            metric_by_bytes(runs, looks, metric, "total"),
        ]
    if not quality:
        quality = [Plot("Metric", "Nothing was evaluated, so no metric is drawn.")]
    return [*quality, train_loss(runs, looks), update_norm(runs, looks), *costs.cost_plots(runs)]


def metric_by_round(runs: Sequence[Run], looks: Sequence[Series], metric: str) -> Plot:
    """Draw a metric of the held-out evaluation against rounds."""
    curves: list[Curve] = []
    for run in runs:
        found = run.evaluations(metric)
        curves.append(([r["round"] for r, _ in found], [v for _, v in found]))
    title = f"{words(metric)} by round"
    if not any(x for x, _ in curves):
        return Plot(title, f"No run has evaluated {metric}.")
    with drawing.figure(len(runs)) as (figure, axes):
        _draw_metric(axes, looks, curves, metric)
        drawing.whole_rounds(axes)
        if len(runs) > 1:
            drawing.legend(figure, axes)
        svg = drawing.to_svg(figure, title)
    return Plot(title, "On the server, on examples that no client has.", svg)


def metric_by_bytes(
    runs: Sequence[Run], looks: Sequence[Series], metric: str, direction: str
) -> Plot:
    """Draw a metric against bytes sent so far: `up`, or `total` for both directions.

    The axis is logarithmic if runs differ by more than four times; the untrained model, at zero
    bytes, is then left out.
    """
    keys = ("up-bytes",) if direction == "up" else ("up-bytes", "down-bytes")
    curves: list[Curve] = []
    for run in runs:
        found = [(r, v) for r, v in run.evaluations(metric) if all(key in r for key in keys)]
        curves.append(
            ([sum(float(r[key]) for key in keys) for r, _ in found], [v for _, v in found])
        )
    title = f"{words(metric)} by " + ("upload" if direction == "up" else "upload and download")
    ends = [x[-1] for x, _ in curves if x and x[-1] > 0]
    if not ends:
        return Plot(title, f"No evaluation of {metric} has bytes beside it.")
    logarithmic = max(ends) > 4 * min(ends)
    if logarithmic:
        curves = [_positive(x, y) for x, y in curves]
    with drawing.figure(len(runs)) as (figure, axes):
        _draw_metric(axes, looks, curves, metric)
        if logarithmic:
            axes.set_xscale("log")
        drawing.unit_axis(axes, "x", "B")
        axes.set_xlabel("bytes so far" + (", logarithmic" if logarithmic else ""))
        dense = next((i for i, run in enumerate(runs) if run.dense and curves[i][1]), None)
        if len(runs) > 1 and dense is not None:
            drawing.level(axes, curves[dense][1][-1], f"{looks[dense].label}, final")
        if len(runs) > 1:
            drawing.legend(figure, axes)
        svg = drawing.to_svg(figure, title)
    what = "replies of all clients" if direction == "up" else "payloads in both directions"
    return Plot(title, f"Measured {what}, without the one-time download of the base model.", svg)


def train_loss(runs: Sequence[Run], looks: Sequence[Series]) -> Plot:
    """Draw the mean training loss of the clients, beside the held-out loss for a single run."""
    title = "Training loss" if len(runs) > 1 else "Loss"
    curves = _over_rounds(runs, "train-loss")
    if curves is None:
        return Plot(title, "No round has a training loss yet.")
    window = _window(curves)
    with drawing.figure(len(runs)) as (figure, axes):
        for look, (rounds, losses) in zip(looks, curves, strict=True):
            label = look.label if len(runs) > 1 else "clients, while training"
            drawing.line(axes, look, rounds, running_mean(losses, window), label, points=False)
        if len(runs) == 1 and (held_out := runs[0].evaluations("loss")):
            look = Series("held-out examples", drawing.VERMILION, "s", "-")
            x = [r["round"] for r, _ in held_out]
            drawing.line(axes, look, x, [v for _, v in held_out], look.label)
        drawing.whole_rounds(axes)
        axes.set_ylabel("loss")
        drawing.legend(figure, axes)
        svg = drawing.to_svg(figure, title)
    return Plot(title, f"Mean over the clients of a round{_smoothed(window)}.", svg)


def update_norm(runs: Sequence[Run], looks: Sequence[Series]) -> Plot:
    """Draw the length of the mean update: where it does not shrink or jumps, look at the rates."""
    title = "Update norm"
    curves = _over_rounds(runs, "update-norm")
    if curves is None:
        return Plot(title, "No round has an update norm yet.")
    window = _window(curves)
    with drawing.figure(len(runs)) as (figure, axes):
        for look, (rounds, norms) in zip(looks, curves, strict=True):
            drawing.line(axes, look, rounds, running_mean(norms, window), look.label, points=False)
        drawing.whole_rounds(axes)
        axes.set_ylabel("Euclidean norm")
        axes.margins(y=0.1)
        axes.set_ylim(bottom=0)
        if len(runs) > 1:
            drawing.legend(figure, axes)
        svg = drawing.to_svg(figure, title)
    return Plot(title, f"Mean of the clients' updates in a round{_smoothed(window)}.", svg)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Return the mean of each value and those before it, `window` in all; NaN is left out."""
    means = []
    for end in range(1, len(values) + 1):
        known = [v for v in values[max(0, end - window) : end] if math.isfinite(v)]
        means.append(sum(known) / len(known) if known else math.nan)
    return means


def _over_rounds(runs: Sequence[Run], key: str) -> list[Curve] | None:
    """Return one curve per run, None if no run has a finite value."""
    curves: list[Curve] = [
        ([r["round"] for r in run.rounds], [_number(r.get(key)) for r in run.rounds])
        for run in runs
    ]
    return curves if any(math.isfinite(y) for _, ys in curves for y in ys) else None


def _window(curves: Sequence[Curve]) -> int:
    """Return over how many rounds to smooth: several noisy curves would hide each other."""
    rounds = max(len(x) for x, _ in curves)
    return max(1, rounds // (20 if len(curves) > 1 else 100))


def _smoothed(window: int) -> str:
    return f", running over {window} rounds" if window > 1 else ""


def _draw_metric(
    axes: "Axes", looks: Sequence[Series], curves: Iterable[Curve], metric: str
) -> None:
    drawn = [(look, x, y) for look, (x, y) in zip(looks, curves, strict=True) if len(x)]
    for look, x, y in drawn:
        drawing.line(axes, look, x, y, look.label)
    if len(looks) == 1:
        _, x, y = drawn[0]
        drawing.end_label(axes, x[-1], y[-1], format_metric(y[-1]))
    axes.set_ylabel(words(metric).lower())
    axes.margins(y=0.08)


def _positive(x: Sequence[float], y: Sequence[float]) -> Curve:
    kept = [(a, b) for a, b in zip(x, y, strict=True) if a > 0]
    return [a for a, _ in kept], [b for _, b in kept]


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
