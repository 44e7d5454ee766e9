"""Plot how well a run or several runs learnt, against rounds, bytes, tokens and simulated seconds.

Every function returns a `Plot`; one that has nothing to show has no drawing and says why.
What bytes and seconds were spent on is drawn in costs.py.
"""

import math
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from fedllm_app.core.units import format_metric, words
from fedllm_app.report import costs, drawing, palette
from fedllm_app.report.answers import SCORES
from fedllm_app.report.clients import client_plots
from fedllm_app.report.curves import Curve, over_rounds, running_mean, smoothed, window_of
from fedllm_app.report.drawing import Plot, Series
from fedllm_app.report.dynamics import agreement, norms, staleness, update_norm
from fedllm_app.report.run import Run
from fedllm_app.report.xaxis import (
    COMPUTE,
    ENERGY,
    ROUNDS,
    SIMULATED,
    TOKENS,
    TRAFFIC,
    UPLOAD,
    XAxis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def all_plots(runs: Sequence[Run], looks: Sequence[Series], x: XAxis = ROUNDS) -> list[Plot]:
    """Return the figures of a page, for one run or for a comparison; `x` is for those over rounds.

    Where a clock ran, the metric is also drawn against its seconds.
    """
    if find_spec("matplotlib") is None:
        return [Plot("Plots", "matplotlib is not installed: pip install matplotlib")]
    quality = []
    for metric in dict.fromkeys(run.headline for run in runs if run.headline):
        against = [x, UPLOAD, TRAFFIC] + [SIMULATED] * any(run.clock for run in runs)
        against += [TOKENS] * all(run.counts_tokens for run in runs)
        against += [COMPUTE, ENERGY] * all(run.fleet for run in runs)
        quality += [metric_by(runs, looks, metric, one) for one in dict.fromkeys(against)]
    for score in SCORES:
        if any(run.evaluations(score) for run in runs):
            quality += [metric_by(runs, looks, score, one) for one in dict.fromkeys([x, TRAFFIC])]
    if not quality:
        quality = [Plot("Metric", "Nothing was evaluated, so no metric is drawn.")]
    quality += client_plots(runs[0], x) if len(runs) == 1 else []
    learnt = [train_loss(runs, looks, x), update_norm(runs, looks, x)]
    learnt += [norms(runs[0], x)] * (len(runs) == 1) + [agreement(runs, looks, x)]
    if any(run.staleness for run in runs):
        learnt.append(staleness(runs, looks, x))
    return [*quality, *learnt, *costs.cost_plots(runs, x)]


def metric_by(runs: Sequence[Run], looks: Sequence[Series], metric: str, x: XAxis) -> Plot:
    """Draw a metric of the held-out evaluation against rounds, bytes or simulated seconds."""
    curves: list[Curve] = []
    for run in runs:
        points = [(x.of(record), value) for record, value in run.evaluations(metric)]
        points = [(at, value) for at, value in points if math.isfinite(at)]
        curves.append(([at for at, _ in points], [value for _, value in points]))
    title = f"{words(metric)} by {x.name}"
    if not any(run.evaluations(metric) for run in runs):
        return Plot(title, f"No run has evaluated {metric}.")
    if x.unit and not any(at > 0 for ats, _ in curves for at in ats):
        return Plot(title, f"No evaluation of {metric} has {x.absent} beside it.")
    logarithmic = x.logarithmic(curves)
    if logarithmic:
        curves = [_positive(*curve) for curve in curves]
    with drawing.figure(len(runs)) as (figure, axes):
        _draw_metric(axes, looks, curves, metric)
        x.finish(axes, logarithmic)
        dense = next((i for i, run in enumerate(runs) if run.dense and curves[i][1]), None)
        if x.unit and len(runs) > 1 and dense is not None:
            drawing.level(axes, curves[dense][1][-1], f"{looks[dense].label}, final")
        if len(runs) > 1:
            drawing.legend(figure, axes)
        svg = drawing.to_svg(figure, title)
    return Plot(title, x.about, svg)


def train_loss(runs: Sequence[Run], looks: Sequence[Series], x: XAxis = ROUNDS) -> Plot:
    """Draw the mean training loss of the clients, beside the held-out loss for a single run."""
    title = "Training loss" if len(runs) > 1 else "Loss"
    curves = over_rounds(runs, "train-loss", x)
    if curves is None:
        return Plot(title, "No round has a training loss yet.")
    window = window_of(curves)
    with drawing.figure(len(runs)) as (figure, axes):
        for look, (ats, losses) in zip(looks, curves, strict=True):
            label = look.label if len(runs) > 1 else "clients, while training"
            drawing.line(axes, look, ats, running_mean(losses, window), label, points=False)
        if len(runs) == 1 and (held_out := runs[0].evaluations("loss")):
            look = Series("held-out examples", palette.VERMILION, "s", "-")
            ats = [x.of(record) for record, _ in held_out]
            drawing.line(axes, look, ats, [v for _, v in held_out], look.label)
        x.finish(axes, x.logarithmic(curves))
        axes.set_ylabel("loss")
        drawing.legend(figure, axes)
        svg = drawing.to_svg(figure, title)
    return Plot(title, f"Mean over the clients of a round{smoothed(window)}.", svg)


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
