"""Rows by point, and how a point stands in a table."""

from collections.abc import Callable, Iterable, Mapping
from statistics import fmean, stdev

from benchmarks.reproduce.figures import save
from benchmarks.study_kit.claims import Points
from benchmarks.study_kit.entry import Row


def by_point(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows of each point, a row for each seed, without trials."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if not row["run"].startswith("trial-"):
            found.setdefault(row["run"].rpartition("-s")[0], []).append(row)
    return found


def perplexity(points: Points, name: str) -> str:
    """Return the perplexity of a point with its spread over seeds, "" where there is none."""
    values = [row["perplexity"] for row in points.get(name, ())]
    spread = f" ± {stdev(values):.1f} ({len(values)} seeds)" if len(values) > 1 else ""
    return f"{fmean(values):.1f}{spread}" if values else ""


def plot_bytes(
    shown: Points,
    name: str,
    style: Callable[[str], tuple[str, str]],
    label: Callable[[str], str] = str,
    kinds: Mapping[str, tuple[str, str]] | None = None,
) -> None:
    """Draw the perplexity of points against their megabytes up, if there are any.

    Parameters
    ----------
    name : of the figure.
    style : returns colour and marker by a point's name.
    label : what is written beside a point; where close points have the same, it is written once.
    kinds : colour and marker by what they stand for, for the legend.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    if not shown:
        return
    figure, axis = plt.subplots(figsize=(8, 5))
    written: list[tuple[str, float, float]] = []
    for point, own in shown.items():
        up, values = own[0]["up-bytes"] / 1e6, [row["perplexity"] for row in own]
        spread, at = stdev(values) if len(values) > 1 else 0, fmean(values)
        colour, marker = style(point)
        axis.errorbar(up, at, spread, fmt=marker, color=colour, capsize=2)
        words = label(point)
        if not any(
            words == w and 0.8 < up / x < 1.25 and 0.9 < at / y < 1.1 for w, x, y in written
        ):
            axis.annotate(words, (up, at), (5, 4), textcoords="offset points", fontsize=7)
            written.append((words, up, at))
    for words, (colour, marker) in (kinds or {}).items():
        axis.plot([], [], marker, color=colour, label=words)
    if kinds:
        axis.legend(frameon=False, fontsize=8)
    axis.set(xscale="log", xlabel="MB up, all clients", ylabel="held-out perplexity")
    axis.grid(alpha=0.3)
    save(figure, name)


def number(value: float | None) -> str:
    """Return a perplexity, "" where there is none."""
    return "" if value is None else f"{value:.1f}"
