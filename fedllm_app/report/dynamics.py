"""Plot how the model moves: norms of update, momentum and parameters, and how far clients agree.

Where replies of older models count, how old they are is drawn, too.
"""

import math
from collections.abc import Sequence

from fedllm_app.report import drawing, palette
from fedllm_app.report.curves import over_rounds, running_mean, smoothed, window_of
from fedllm_app.report.drawing import Plot, Series
from fedllm_app.report.run import Run
from fedllm_app.report.xaxis import ROUNDS, XAxis

NORMS = {
    "params-norm": Series("parameters", palette.GREEN, "^", "-"),
    "momentum-norm": Series("server's momentum", palette.VERMILION, "s", "-"),
    "update-norm": Series("mean update", palette.BLUE, "o", "-"),
}


def update_norm(runs: Sequence[Run], looks: Sequence[Series], x: XAxis = ROUNDS) -> Plot:
    """Draw the length of the mean update: where it does not shrink or jumps, look at the rates."""
    about = "Mean of the clients' updates in a round"
    return _curves(runs, looks, x, "update-norm", "Update norm", "Euclidean norm", about)


def agreement(runs: Sequence[Run], looks: Sequence[Series], x: XAxis = ROUNDS) -> Plot:
    """Draw the mean cosine between the updates of a round: 1 is agreement, 0 is none."""
    about = (
        "Mean cosine between the updates of two clients of a round, each pair weighted by their "
        "norms; 1 is full agreement, 0 none"
    )
    return _curves(runs, looks, x, "cosine", "Agreement of clients", "cosine", about)


def staleness(runs: Sequence[Run], looks: Sequence[Series], x: XAxis = ROUNDS) -> Plot:
    """Draw how old the models were that the replies of a step were trained from."""
    about = (
        "Mean over the replies of a step of how many steps the server had taken since their model; "
        "0 is fresh"
    )
    return _curves(runs, looks, x, "staleness-mean", "Staleness", "steps", about)


def norms(run: Run, x: XAxis = ROUNDS) -> Plot:
    """Draw the lengths of parameters, momentum and update of one run on one logarithmic axis."""
    title = "Norms"
    found = {key: over_rounds([run], key, x) for key in NORMS}
    if found["params-norm"] is None:
        return Plot(title, "No round has the norm of the parameters.")
    with drawing.figure(len(NORMS)) as (figure, axes):
        for key, curves in found.items():
            if curves is not None:
                ((ats, values),) = curves
                shown = [v if v > 0 else math.nan for v in values]
                drawing.line(axes, NORMS[key], ats, shown, NORMS[key].label, points=False)
        axes.set_yscale("log")
        x.finish(axes)
        axes.set_ylabel("Euclidean norm, logarithmic")
        drawing.legend(figure, axes)
        svg = drawing.to_svg(figure, title)
    return Plot(title, "Of all trainable parameters, after each round.", svg)


def _curves(
    runs: Sequence[Run],
    looks: Sequence[Series],
    x: XAxis,
    key: str,
    title: str,
    unit: str,
    about: str,
) -> Plot:
    curves = over_rounds(runs, key, x)
    if curves is None:
        return Plot(title, f"No round has a number for this figure ({key}).")
    window = window_of(curves)
    with drawing.figure(len(runs)) as (figure, axes):
        for look, (ats, values) in zip(looks, curves, strict=True):
            drawing.line(axes, look, ats, running_mean(values, window), look.label, points=False)
        x.finish(axes, x.logarithmic(curves))
        axes.set_ylabel(unit)
        axes.margins(y=0.1)
        if all(y >= 0 for _, ys in curves for y in ys if math.isfinite(y)):
            axes.set_ylim(bottom=0)
        if len(runs) > 1:
            drawing.legend(figure, axes)
        svg = drawing.to_svg(figure, title)
    return Plot(title, f"{about}{smoothed(window)}.", svg)
