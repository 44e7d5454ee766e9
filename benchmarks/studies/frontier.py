"""How few bytes bench-S can do with: density, value bits, levels, scales, feedback, mean, rate.

    python -m benchmarks.studies.frontier run --data DATA --model MODEL    an hour; resumable
    python -m benchmarks.studies.frontier table                            results, plot, table

Every run is FLoSS on bench-S with FLoSS' own tuned rates unless it says another server lr, beside
dense with its own. Those that `make reproduce` has played too are not played again: both keep
their runs in the same home. Results go to benchmarks/results/reproduce-frontier.json.
"""

import argparse
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from benchmarks.markers import fill, printed
from benchmarks.record import ROOT, write_result
from benchmarks.reproduce.cells import ROUNDS, Entry, Rates, Settings, floss_entry
from benchmarks.reproduce.figures import save
from benchmarks.reproduce.results import Row, best_rates, rows_of
from fedllm_app.study.sweep import play

Q4: Settings = {"wire.up-values": "q4"}
INT4: Settings = {"wire.up-values": "int4"}
DOWN8: Settings = {"wire.down-values": "int8"}
DOWN4: Settings = {"wire.down-values": "q4"}
FEEDBACK: Settings = {"strategy.error-feedback": True}
SENDERS: Settings = {"strategy.mean": "senders"}
# (density down, density up, options); the most telling first.
POINTS: tuple[tuple[str, str, Settings], ...] = (
    ("4", "16", Q4 | DOWN8),
    ("4", "16", Q4),
    ("4", "64", Q4),
    ("4", "64", Q4 | DOWN8),
    ("4", "4", Q4),
    ("4", "16", {}),
    ("4", "64", {}),
    ("4", "4", {}),
    ("4", "16", {"wire.up-values": "int8"}),
    ("4", "16", {"wire.up-values": "q3"}),
    ("4", "16", INT4),
    ("4", "16", INT4 | {"wire.block": 32}),
    ("4", "16", INT4 | {"wire.block": 4096}),
    ("4", "16", Q4 | {"server.lr": 0.003}),
    ("4", "16", Q4 | {"server.lr": 0.03}),
    ("4", "16", Q4 | FEEDBACK),
    ("4", "64", Q4 | FEEDBACK),
    ("4", "16", Q4 | SENDERS),
    ("4", "64", Q4 | SENDERS),
    ("4", "16", Q4 | DOWN4),
    ("16", "16", Q4 | DOWN8),
    ("16", "64", Q4 | DOWN4),
    ("64", "64", Q4 | DOWN4),
)
COLORS = {"fp32": "C7", "int8": "C0", "int4": "C2", "q4": "C3", "q3": "C4"}
MARKERS = {"1": "*", "1/4": "o", "1/16": "s", "1/64": "^"}  # by density up
LEAST = 0.36  # what lies below is drawn at the edge, with its figure


def entries(rates: Rates) -> list[Entry]:
    """Return dense, then every point; of dense at FLoSS' rates, too."""
    found = [floss_entry("frontier", 16, "1", "1", ROUNDS)]
    for down, up, options in (("1", "1", {"server.lr": rates["floss"]["server.lr"]}), *POINTS):
        entry = floss_entry("frontier", 16, down, up, ROUNDS, options)
        settings = dict(entry.settings) | dict(rates["floss"]) | options
        found.append(replace(entry, settings=settings, tuned_as=""))
    return found


def table(home: Path) -> None:
    """Write the results and the plot, and print every point beside dense."""
    rates = best_rates(home)
    rows = rows_of("frontier", entries(rates), rates, home)
    dense = next((row for row in rows if row["method"] == "dense"), None)
    last = str(ROUNDS)
    for row in rows if dense else []:
        row["points-from-dense"] = 100 * (row["score"] - dense["score"])
        for way in ("up", "down"):
            row[f"times-less-{way}"] = dense[f"{way}-bytes"][last] / row[f"{way}-bytes"][last]
        words = f"{row['score']:.3f} {row['points-from-dense']:+5.1f} points"
        less = f"{row['times-less-up']:6.1f}x up {row['times-less-down']:6.1f}x down"
        print(f"{words} {less}  {label(row)}")
    write_result("reproduce-frontier", {"recipes": ["recipes/bench-s.toml"]}, rows)
    if dense:
        plot(rows)
        fill(ROOT / "docs" / "performance.md", {"frontier": printed(lines(rows))})


def lines(rows: list[Row]) -> list[list[str]]:
    """Return the cells of the table, its head first, the fewest bytes up last."""
    table = [["point", "accuracy", "from dense", "times fewer up", "times fewer down"]]
    for row in sorted(rows, key=lambda row: float(row["times-less-up"])):
        apart = f"{row['points-from-dense']:+.1f} points"
        less = [f"{row[f'times-less-{way}']:.1f}" for way in ("up", "down")]
        table.append([label(row), f"{row['score']:.3f}", apart, *less])
    return table


def label(row: Row) -> str:
    """Return what a run's point says."""
    name: str = row["run"].removesuffix("-s0").removeprefix("20n-dirichlet-")
    return name.replace("-r16", "").removeprefix("floss-")


def plot(rows: list[Row]) -> None:
    """Draw accuracy at the last round against bytes, up and down."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12.5, 5.2), sharey=True)
    dense = next(row["score"] for row in rows if row["method"] == "dense")
    for axis, way in zip(axes, ("up", "down"), strict=True):
        axis.axhline(dense - 0.01, color="grey", linestyle=":", linewidth=1)
        for row in rows:
            at = (row[f"times-less-{way}"], max(row["score"], LEAST))
            axis.plot(*at, **looks(row), alpha=0.8)
            if words := remark(row):
                axis.annotate(words, at, (5, 3), textcoords="offset points", fontsize=7)
        axis.set(xscale="log", xlabel=f"times fewer bytes {way} than dense")
        axis.set(ylim=(LEAST - 0.003, None), xlim=(0.8, 900))
        axis.grid(alpha=0.3)
    shapes = [("k", m, f"{d} up") for d, m in MARKERS.items()]
    for color, marker, name in [*((c, "o", f"{v} up") for v, c in COLORS.items()), *shapes]:
        axes[1].plot([], [], marker, color=color, label=name)
    axes[1].legend(fontsize=8, ncols=2, loc="upper right")
    axes[0].set(ylabel="test accuracy at round 100", title="bench-S; dotted: dense less 1 point")
    save(figure, "frontier")


def looks(row: Row) -> dict[str, str]:
    """Return a point's color, by values up, and marker, by density up."""
    settings = row["settings"]
    up = Fraction(settings.get("strategy.d-up", 1.0)).limit_denominator(64)
    return {
        "color": COLORS[settings.get("wire.up-values", "fp32")],
        "marker": MARKERS[str(up)],
        "linestyle": "",
    }


def remark(row: Row) -> str:
    """Return what color and marker do not say of a point."""
    words = ["dense"] if row["method"] == "dense" else []
    words += [w for w in ("feedback", "senders", "block-32", "block-4096") if w in label(row)]
    words += [f"lr {label(row).split('-lr-')[1]}"] if "-lr-" in label(row) else []
    words += [f"{row['score']:.3f}"] if row["score"] < LEAST else []
    return ", ".join(words)


def main() -> int:
    """Run one step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("step", choices=["run", "table"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--home", type=Path, default=Path.home() / ".fedllm" / "bench-s")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.step == "run":
        if not arguments.data or not arguments.model:
            parser.error("run needs --data and --model")
        rates = best_rates(arguments.home)
        places = {
            "data.train": str(arguments.data.absolute()),
            "model.source": str(arguments.model.absolute()),
        }
        cells = [cell for e in entries(rates) if (cell := e.cell(rates, places))]
        play(cells, arguments.home, arguments.workers)
    table(arguments.home)
    return 0


if __name__ == "__main__":
    sys.exit(main())
