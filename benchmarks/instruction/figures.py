"""Draw response loss and ROUGE-L of every run, against rounds and against megabytes both ways."""

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from benchmarks.instruction.cells import METHODS, SETS
from benchmarks.reproduce.figures import panels, save
from benchmarks.study_kit.entry import Row
from benchmarks.study_kit.points import by_point

NAME = "instruction-loss"
COLOURS = dict(zip(METHODS, ("0.35", "tab:blue", "tab:cyan", "tab:orange"), strict=True))
SHOWN = {"curve": "response loss", "rouge-l": "ROUGE-L"}  # keys of a row that are curves


def curves(
    rows: Sequence[Row], data: str, key: str
) -> Iterator[tuple[str, list[tuple[int, float, float]]]]:
    """Yield each method on a set with a curve, the mean over its seeds.

    A point is a round, megabytes up and down so far, and a value.
    """
    for point, own in by_point(rows).items():
        of, _, method = point.partition("-")
        if of == data and all(row.get(key) for row in own):
            yield (
                method,
                [
                    (
                        int(r),
                        fmean(row["megabytes"][r] for row in own),
                        fmean(row[key][r] for row in own),
                    )
                    for r in own[0][key]
                ],
            )


def draw(rows: Sequence[Row]) -> bool:
    """Write the figure, a row of panels for each set; return whether there was anything to draw."""
    import matplotlib

    matplotlib.use("Agg")
    shown = [data for data in SETS if any(True for _ in curves(rows, data, "curve"))]
    if not shown:
        return False
    figure, axes = panels(2 * len(SHOWN), len(shown))
    free = iter(axes)
    for data in shown:
        for key, words in SHOWN.items():
            found = [*curves(rows, data, key)]
            by_round = [(method, [(r, y) for r, _, y in points]) for method, points in found]
            by_bytes = [(method, [(x, y) for _, x, y in points if x]) for method, points in found]
            _panel(next(free), "round", f"{data}: {words}", by_round)
            # A logarithmic axis has no place for round 0, before anything is sent.
            _panel(next(free), "MB, up and down", f"{data}: {words}", by_bytes, xscale="log")
    axes[0].legend(fontsize=8)
    save(figure, NAME)
    return True


def _panel(
    axis: Any, across: str, up: str, found: Sequence[tuple[str, list[tuple[float, float]]]],
    xscale: str = "linear",
) -> None:  # fmt: skip
    for method, points in found:
        xs, ys = zip(*points, strict=True) if points else ((), ())
        axis.plot(xs, ys, marker=".", color=COLOURS.get(method), label=method)
    axis.set(xlabel=across, ylabel=up, xscale=xscale)
