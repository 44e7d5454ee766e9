"""Draw the held-out response loss of every run, against rounds and against megabytes both ways."""

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.instruction.cells import METHODS, SETS
from benchmarks.reproduce.figures import panels, save
from benchmarks.study_kit.entry import Row

NAME = "instruction-loss"
COLOURS = dict(zip(METHODS, ("0.35", "tab:blue", "tab:cyan", "tab:orange"), strict=True))


def curves(rows: Sequence[Row], data: str) -> Iterator[tuple[str, list[tuple[int, float, float]]]]:
    """Yield each method on a set with its curve: round, megabytes up and down so far, loss."""
    for row in rows:
        of, _, method = row["run"].partition("-")
        if of == data and (curve := row.get("curve")):
            sent = row.get("megabytes", {})
            yield method, [(int(r), sent.get(r, 0.0), loss) for r, loss in curve.items()]


def draw(rows: Sequence[Row]) -> bool:
    """Write the figure, two panels for each set; return whether there was anything to draw."""
    import matplotlib

    matplotlib.use("Agg")
    shown = {data: found for data in SETS if (found := [*curves(rows, data)])}
    if not shown:
        return False
    figure, axes = panels(2 * len(shown))
    for i, (data, found) in enumerate(shown.items()):
        _panel(axes[2 * i], f"{data}: round", [(m, [(r, y) for r, _, y in c]) for m, c in found])
        by_bytes = [(m, [(x, y) for _, x, y in c if x]) for m, c in found]
        _panel(axes[2 * i + 1], f"{data}: MB, up and down", by_bytes)
        axes[2 * i + 1].set_xscale("log")  # which has no place for round 0, before anything is sent
    axes[0].set_ylabel("held-out response loss")
    axes[0].legend(fontsize=8)
    save(figure, NAME)
    return True


def _panel(axis: Any, name: str, found: Sequence[tuple[str, list[tuple[float, float]]]]) -> None:
    for method, points in found:
        xs, ys = zip(*points, strict=True) if points else ((), ())
        axis.plot(xs, ys, marker=".", color=COLOURS.get(method), label=method)
    axis.set_xlabel(name)
