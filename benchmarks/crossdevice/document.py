"""The tables and the plot of docs/reproducing-cross-device.md, from the rows that there are."""

from collections.abc import Sequence

from benchmarks.crossdevice.cells import (
    EDGES,
    FAMILIES,
    LARGE,
    PRETRAINED,
    RATES,
    SMALL,
    trial_name,
)
from benchmarks.crossdevice.claims import LITERATURE, LSTM, sooner, verdicts
from benchmarks.markers import fill, printed
from benchmarks.record import ROOT
from benchmarks.study_kit.claims import Points, gap
from benchmarks.study_kit.entry import Row
from benchmarks.study_kit.points import by_point, number, perplexity, plot_bytes

DOCUMENT = ROOT / "docs" / "reproducing-cross-device.md"
COLOURS = {"lstm": "C7", "transformer": "C0", "conformer": "C1"}
MARKERS = {LARGE: "o", SMALL: "s"}


def write(rows: Sequence[Row]) -> None:
    """Write claims and tables into the document, and draw the plot."""
    points = by_point(rows)
    head = ["claim", "here", "verdict"]
    fill(DOCUMENT, {
        "crossdevice-claims": printed([head, *(list(verdict) for verdict in verdicts(points))]),
        "crossdevice-paper": ways(points, "paper"),
        "crossdevice-beyond": ways(points, "beyond"),
        "crossdevice-articles": ways(points, "articles"),
        "crossdevice-users": users(points),
        "crossdevice-transfer": transfer(points),
        "crossdevice-rates": rates(rows),
        "crossdevice-edges": edges(rows),
    })  # fmt: skip
    draw(points)


def ways(points: Points, figure: str) -> str:
    """Return the points of a figure: perplexity and bytes beside both LSTMs of the same text."""
    head = ["point", "perplexity", "to lstm-small", "to lstm-tiny", "MB up", "fewer up", "MB down"]
    body = []
    for name, own in points.items():
        if own[0]["figure"] != figure:
            continue
        data = "articles-" if figure == "articles" else ""
        up, whole = own[0]["up-bytes"], points.get(data + LSTM)
        body.append([
            name.removeprefix(data), perplexity(points, name),
            *(ratio(points, name, data + other) for other in (LSTM, LITERATURE)),
            f"{up / 1e6:,.0f}", f"{whole[0]['up-bytes'] / up:.1f}x" if whole else "",
            f"{own[0]['down-bytes'] / 1e6:,.0f}",
        ])  # fmt: skip
    return printed([head, *body])


def ratio(points: Points, name: str, other: str) -> str:
    """Return how far a perplexity is from another, over the seeds that both have."""
    found = gap(points, name, other)
    return "" if found is None or name == other else f"{found[0]:+.1f} %"


def users(points: Points) -> str:
    """Return how perplexity is spread over users, those that may train and those that never do."""
    head = ["point", "users", "", "mean", "weighted mean", "10th percentile", "90th percentile"]
    body = [
        [name.removeprefix("users-"), str(spread["clients"]), kind,
         *(number(spread["perplexity"][w]) for w in ("mean", "weighted", "p10", "p90"))]
        for name, own in points.items()
        for kind, spread in own[0].get("by-client", {}).items()
    ]  # fmt: skip
    return printed([head, *body])


def transfer(points: Points) -> str:
    """Return the rounds to what full training ends at, with and without pre-training."""
    body = []
    for family in FAMILIES:
        found = sooner(points, family)
        before = points.get(f"{PRETRAINED}-{family}-small")
        if found:
            without, with_it, target = found
            told = "" if with_it is None else str(with_it)
            text = f"{before[0]['perplexity']:.1f}" if before else ""
            body.append([f"{family}-small", text, f"{target:.1f}", str(without), told])
    head = ["model", "perplexity on the public text", "target", "rounds without", "rounds with"]
    return printed([head, *body])


def rates(rows: Sequence[Row]) -> str:
    """Return the perplexities of all trials."""
    trials = tried(rows)
    shapes = [f"{family}-{size}" for family in FAMILIES for size in (SMALL, LARGE)]
    body = [[s, *(number(trials.get(trial_name(s, *own))) for own in RATES)] for s in shapes]
    return printed([["client.lr, server.lr", *(f"{c:g}, {s:g}" for c, s in RATES)], *body])


def edges(rows: Sequence[Row]) -> str:
    """Return the perplexities at rates beyond the trials', beside the best trial."""
    trials, body = tried(rows), []
    for shape, beyond in EDGES.items():
        found = {own: trials.get(trial_name(shape, *own)) for own in (*RATES, *beyond)}
        known = [own for own in RATES if found[own] is not None]
        if known:
            best = min(known, key=lambda own: found[own] or 0.0)
            cells = (f"{own[0]:g}, {own[1]:g}: {number(found[own])}" for own in (best, *beyond))
            body.append([shape, *cells])
    return printed([["model", "best trial", "beyond", "beyond"], *body])


def tried(rows: Sequence[Row]) -> dict[str, float]:
    """Return the perplexity of every run that tries rates, by its name."""
    return {row["run"]: row["perplexity"] for row in rows if row["run"].startswith("trial-")}


def draw(points: Points) -> None:
    """Draw perplexity against megabytes up, on the roles."""
    shown = {name: own for name, own in points.items() if own[0]["figure"] in ("paper", "beyond")}

    def style(name: str) -> tuple[str, str]:
        family, size, _ = name.split("-", 2)
        return COLOURS[family], MARKERS[size]

    kinds = {f"{f}-{size}": (COLOURS[f], MARKERS[size]) for f in FAMILIES for size in MARKERS}
    plot_bytes(shown, "crossdevice-bytes", style, lambda name: name.split("-", 2)[2], kinds)
