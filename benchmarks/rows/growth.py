"""How seconds and bytes grow with parameters, density and clients: exponents on log axes.

Shapes: P trainable parameters, K coordinates sent.
"""

from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.record import ROOT
from benchmarks.rows.kernels import NO_BASE, gpt2_layout, pack, uneven
from benchmarks.rows.row import Context, Row, threads
from fedllm_app.server.aggregate import Mean
from fedllm_app.server.optimizer import ServerOptimizer
from fedllm_app.server.settings import ServerSettings
from fedllm_app.wire.codec import decode
from fedllm_app.wire.select import top_positions
from fedllm_app.wire.slices import origin_of

LAYERS = (1, 3, 12, 48)  # 0.2 to 9.4 million parameters
DENSITIES = (1 / 2, 1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 1000)
CLIENTS = (10, 30, 100, 300, 1000)
FIGURE = ROOT / "docs" / "figures" / "growth.png"

Curves = dict[str, list[tuple[float, float]]]


def measure(context: Context) -> list[Row]:
    """Return a row for each panel of the figure, with the exponents of its curves, and draw it."""
    with threads(1):
        panels = {
            ("parameters", "s"): by_parameters(LAYERS[:3] if context.quick else LAYERS),
            ("density", "s"): by_density(),
            ("clients a round", "s"): by_clients(CLIENTS[:3] if context.quick else CLIENTS),
        }
    for x in ("parameters", "density", "clients a round"):
        curves = panels[x, "s"]
        panels[x, "bytes"] = {n: curves.pop(n) for n in list(curves) if n.endswith("bytes")}
    if not context.quick:
        draw(panels)
    return [
        Row(
            what=f"growth of {'seconds' if unit == 's' else unit} with {x}",
            peer=", ".join(f"{name} x^{exponent(points):.2f}" for name, points in curves.items()),
            details={name: {"exponent": exponent(points), "points": points}
                     for name, points in curves.items()},
        )
        for (x, unit), curves in panels.items()
    ]  # fmt: skip


def by_parameters(layers: tuple[int, ...]) -> Curves:
    """Return the seconds of every step beside training at density 1/16, and the upload's bytes."""
    curves: Curves = {}
    for count in layers:
        seconds, size = steps_of(count, 1 / 16)
        for name, value in seconds.items():
            curves.setdefault(name, []).append((size["parameters"], value))
        curves.setdefault("upload bytes", []).append((size["parameters"], size["bytes"]))
    return curves


def by_density() -> Curves:
    """Return the seconds of the steps that depend on density, and the upload's bytes."""
    curves: Curves = {}
    for density in DENSITIES:
        seconds, size = steps_of(12, density)
        for name in ("choose", "encode", "decode", "fold"):
            curves.setdefault(name, []).append((density, seconds[name]))
        curves.setdefault("upload bytes", []).append((density, size["bytes"]))
    return curves


def by_clients(clients: tuple[int, ...]) -> Curves:
    """Return the seconds in which a round's replies are decoded and folded, and their bytes."""
    layout = gpt2_layout()
    P, origin = layout.size, origin_of(layout, NO_BASE)
    values_P = uneven(layout, np.random.default_rng(0))
    at = top_positions(values_P, 1 / 16)
    payload = pack(values_P[at], at, origin, "q4")
    curves: Curves = {"decode and fold": [], "upload bytes": []}
    for n in clients:
        mean, began = Mean(P, cohort=n), perf_counter()
        for _ in range(n):
            update = decode(payload, origin)
            mean.fold(update.positions, update.values)
        mean.mean()
        curves["decode and fold"].append((n, perf_counter() - began))
        curves["upload bytes"].append((n, float(n * payload.size)))
    return curves


def steps_of(layers: int, density: float) -> tuple[dict[str, float], dict[str, float]]:
    """Return the median seconds of each step of a round, and its parameters and bytes."""
    layout = gpt2_layout(layers)
    P, origin = layout.size, origin_of(layout, NO_BASE)
    values_P = uneven(layout, np.random.default_rng(0))
    at = top_positions(values_P, density)
    payload = pack(values_P[at], at, origin, "q4")
    update, mean = decode(payload, origin), Mean(P, cohort=1000)
    server = ServerOptimizer(ServerSettings().resolved(), values_P)
    seconds = {
        "choose": timed(partial(top_positions, values_P, density)),
        "encode": timed(partial(pack, values_P[at], at, origin, "q4")),
        "decode": timed(partial(decode, payload, origin)),
        "fold": timed(partial(mean.fold, update.positions, update.values)),
        "step": timed(partial(server.step, values_P)),
    }
    return seconds, {"parameters": P, "bytes": float(payload.size)}


def timed(measure: Callable[[], Any], repeats: int = 7) -> float:
    """Return the median seconds of a call."""
    measure()
    found = []
    for _ in range(repeats):
        began = perf_counter()
        measure()
        found.append(perf_counter() - began)
    return median(found)


def exponent(points: list[tuple[float, float]]) -> float:
    """Return b of the least-squares fit y = a x^b on log axes."""
    x, y = np.log(np.array(points)).T
    return float(np.polyfit(x, y, 1)[0])


def draw(panels: dict[tuple[str, str], Curves]) -> None:
    """Draw all curves, seconds above bytes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(13, 7.4))
    for column, x in enumerate(("parameters", "density", "clients a round")):
        for row, unit in enumerate(("s", "bytes")):
            axis = axes[row, column]
            for name, points in panels[x, unit].items():
                label = f"{name}: x^{exponent(points):.2f}"
                axis.plot(*zip(*points, strict=True), marker="o", markersize=4, label=label)
            axis.set(
                xscale="log", yscale="log", xlabel=x, ylabel="seconds" if unit == "s" else unit
            )
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=100)
    plt.close(figure)
