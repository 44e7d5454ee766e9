"""Draw one figure as an SVG that reads on paper, on a dark page and on a telephone.

Text, axes and grid take the colour of the page around them (`currentColor`), text stays text, and
nothing is loaded from anywhere. Series colours are those of Okabe and Ito, told apart by people
with any colour vision; markers differ as well. Devices have no matplotlib: it is imported inside.
"""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from statistics import fmean
from typing import TYPE_CHECKING, Any

from fedllm_app.report.palette import (
    BLUE,
    GREEN,
    GREY,
    ON_DARK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    themed,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Matplotlib wants a number where the page wants `currentColor`: this one is put in its place.
INK = "#010203"
SERIES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
WIDTH_IN, HEIGHT_IN, LEGEND_ROW_IN = 5.2, 3.2, 0.19
LABEL_CHARS = 30
MOST_STEPS = 200

# Any: matplotlib types its hundreds of keys as one literal.
STYLE: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "fedllm",
}


@dataclass(frozen=True)
class Plot:
    """A figure for a page. Without an `svg` there was nothing to draw, and `caption` says why."""

    title: str
    caption: str
    svg: str = ""


@dataclass(frozen=True)
class Series:
    """Look of one run, the same in every figure and in the table."""

    label: str
    colour: str
    marker: str
    dash: str


def series(labels: Sequence[str]) -> list[Series]:
    """Return a look for each label; after seven, colours come again with another dash."""
    return [
        Series(
            label,
            SERIES[i % len(SERIES)],
            MARKERS[i % len(MARKERS)],
            DASHES[i // len(SERIES) % len(DASHES)],
        )
        for i, label in enumerate(labels)
    ]


@contextmanager
def figure(runs: int = 1, height_in: float = HEIGHT_IN) -> Iterator["tuple[Figure, Axes]"]:
    """Open a figure of the page's width; draw and call `to_svg` inside.

    It grows with the legend of several runs, so that the axes keep their size.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure as MatplotlibFigure

    with mpl.rc_context(STYLE):
        tall_in = height_in + LEGEND_ROW_IN * ((runs + 1) // 2 if runs > 1 else 0)
        drawn = MatplotlibFigure(figsize=(WIDTH_IN, tall_in), layout="constrained")
        yield drawn, drawn.add_subplot()


def to_svg(drawn: "Figure", description: str) -> str:
    """Return the figure as an `<svg>` element with `description` for those who cannot see it."""
    out = StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    drawn.savefig(out, format="svg", transparent=True, metadata=nothing)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    for colour in ON_DARK:
        svg = re.sub(rf"(: ?){colour}\b", rf"\1{themed(colour)}", svg, flags=re.IGNORECASE)
    # Names such as axes_1 would be on the page once per figure; nothing refers to them.
    svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)
    svg = re.sub(r"'DejaVu Sans'(, [^;\"]+)?", "system-ui, sans-serif", svg)
    # The page decides the size; the viewBox keeps the proportions.
    head, rest = svg.split(">", 1)
    svg = re.sub(r' (?:width|height)="[^"]*"', "", head) + ">" + rest
    label = html.escape(description, quote=True)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def line(
    axes: "Axes",
    look: Series,
    x: Sequence[float],
    y: Sequence[float],
    label: str,
    points: bool = True,
) -> None:
    """Draw one curve; few points are marked, of many about twelve."""
    lone = sum(value == value for value in y) == 1
    axes.plot(
        x,
        y,
        color=look.colour,
        linestyle=look.dash,
        marker=look.marker if points or lone else "",
        markevery=max(1, len(x) // 12),
        label=label,
    )


def end_label(axes: "Axes", x: float, y: float, text: str) -> None:
    """Write the last value beside the end of its curve, and make room for it."""
    axes.annotate(
        text, (x, y), (6, 0), textcoords="offset points", va="center", annotation_clip=False
    )
    axes.margins(x=0.02)


def level(axes: "Axes", y: float, text: str) -> None:
    """Draw a horizontal reference with its name on it."""
    axes.axhline(y, color=INK, linewidth=1, linestyle=(0, (2, 3)), alpha=0.65, zorder=1)
    axes.annotate(
        text,
        (0, y),
        (2, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="bottom",
        fontsize=8.5,
        alpha=0.8,
    )


def legend(drawn: "Figure", axes: "Axes") -> None:
    """Put the legend under the axes: a row of short entries, or two columns of long ones."""
    handles, labels = axes.get_legend_handles_labels()
    columns = 2 if max(map(len, labels)) > 12 else 4
    drawn.legend(
        handles,
        labels,
        loc="outside lower left",
        ncols=columns,
        handlelength=2.0,
        columnspacing=1.5,
    )


def stairs(
    axes: "Axes",
    edges: Sequence[float],
    parts: Mapping[str, list[float]],
    colours: Mapping[str, str],
) -> int:
    """Stack parts over rounds 1, 2, ... as steps, and return how many rounds a step stands for.

    Beyond `MOST_STEPS` rounds a step is the mean of several: thinner ones could not be seen.

    Parameters
    ----------
    edges : where the rounds begin, and where the last one ends.
    """
    rounds = len(edges) - 1
    width = -(-rounds // MOST_STEPS)
    starts = range(0, rounds, width)
    edges = [*(edges[start] for start in starts), edges[-1]]
    low = [0.0] * len(starts)
    for name, values in parts.items():
        colour = colours.get(name, GREY)
        means = [fmean(values[start : start + width]) for start in starts]
        high = [a + b for a, b in zip(low, means, strict=True)]
        axes.stairs(high, edges, baseline=low, fill=True, color=colour, label=name, linewidth=0)
        low = high
    axes.set_xlim(edges[0], max(edges[-1], edges[0] + 1e-12))
    axes.margins(y=0.08)
    axes.set_ylim(bottom=0)
    return width


def bars(
    axes: "Axes",
    labels: Sequence[str],
    parts: Mapping[str, list[float]],
    colours: Mapping[str, str],
    notes: Sequence[str],
) -> None:
    """Draw one stacked bar per run, its name above and a note at its end."""
    left = [0.0] * len(labels)
    rows = [float(i) for i in range(len(labels))]
    for name, values in parts.items():
        colour = colours.get(name, GREY)
        axes.barh(rows, values, left=left, height=0.36, color=colour, label=name)
        left = [a + b for a, b in zip(left, values, strict=True)]
    # A third of the width is kept free on the right: notes never leave the figure.
    axes.set_xlim(0, max([*left, 1e-12]) * 1.5)
    axes.set_ylim(len(labels) - 0.55, -0.75)
    for row, label, end, note in zip(rows, labels, left, notes, strict=True):
        axes.annotate(label, (0, row - 0.24), (0, 0), textcoords="offset points", va="bottom")
        axes.annotate(note, (end, row), (4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(False, axis="y")


def whole_rounds(axes: "Axes") -> None:
    """Label the horizontal axis with whole rounds."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(
        MaxNLocator(integer=True, nbins=6, steps=[1, 2, 5, 10], min_n_ticks=1)
    )
    axes.set_xlabel("round")


def unit_axis(axes: "Axes", which: str, unit: str) -> None:
    """Label an axis in kB, MB or ms, not powers of ten; seconds above two hours are hours."""
    from matplotlib.ticker import (
        EngFormatter,
        FuncFormatter,
        LogLocator,
        MaxNLocator,
        NullFormatter,
    )

    axis = axes.xaxis if which == "x" else axes.yaxis
    scaled = EngFormatter(unit="" if unit == "tokens" else unit)
    hours = unit == "s" and max(map(abs, axis.get_view_interval())) > 7200

    def plain(value: float, place: int | None = None) -> str:
        if hours:
            return f"{value / 3600:.3g} h"
        return f"{value:,.0f} s" if abs(value) >= 1000 else scaled(value, place)

    axis.set_major_formatter(FuncFormatter(plain) if unit == "s" else scaled)
    if axis.get_scale() == "linear":
        axis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    else:  # within few powers of ten, matplotlib would name what lies between them in TeX
        low, high = sorted(axis.get_view_interval())
        wide = high > 300 * low
        axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axis.set_minor_formatter(NullFormatter())


def short(label: str) -> str:
    """Return a label that fits half a figure; what is cut is its middle."""
    if len(label) <= LABEL_CHARS:
        return label
    half = (LABEL_CHARS - 1) // 2
    return f"{label[:half]}…{label[-half:]}"
