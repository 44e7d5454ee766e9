"""The tables and the plot of docs/reproducing-photon.md, from the rows that there are."""

from collections.abc import Sequence

from benchmarks.markers import fill, printed
from benchmarks.photon.cells import CLIENT_LRS, OUTER_LRS
from benchmarks.photon.claims import DENSE, verdicts
from benchmarks.record import ROOT
from benchmarks.study_kit.claims import Points
from benchmarks.study_kit.entry import Row
from benchmarks.study_kit.points import by_point, number, perplexity, plot_bytes

DOCUMENT = ROOT / "docs" / "reproducing-photon.md"
LOCAL_STEPS = (16, 64, 256)
BYTES = ("headline", "bytes")


def write(rows: Sequence[Row]) -> None:
    """Write claims and tables into the document, and draw the plot."""
    points = by_point(rows)
    head = ["claim", "here", "verdict"]
    fill(DOCUMENT, {
        "photon-claims": printed([head, *(list(verdict) for verdict in verdicts(points))]),
        "photon-rates": rates(rows),
        "photon-headline": ways(points, "headline"),
        "photon-grid": grid(points),
        "photon-local": local_steps(points),
        "photon-bytes": ways(points, "bytes"),
        "photon-uneven": ways(points, "uneven"),
        "photon-late": late(points),
    })  # fmt: skip
    draw(points)


def rates(rows: Sequence[Row]) -> str:
    """Return the perplexities of all trials, a table for each side's rates."""
    trials = {row["run"]: row["perplexity"] for row in rows if row["run"].startswith("trial-")}
    local = ("photon", "centralized-tokens", "centralized-steps", "photon-small")
    tables = []
    for key, tried, names in (
        ("client.lr", CLIENT_LRS, local), ("server.lr", OUTER_LRS, ("diloco", "sparse")),
    ):  # fmt: skip
        body = [
            [name, *(number(trials.get(f"trial-{name}-{lr:g}")) for lr in tried)] for name in names
        ]
        tables.append(printed([[key, *(f"{lr:g}" for lr in tried)], *body]))
    return "\n\n".join(tables)


def ways(points: Points, figure: str) -> str:
    """Return the points of a figure with their bytes, each beside dense DiLoCo."""
    dense = points.get(DENSE)
    body = []
    for name, own in points.items():
        first = own[0]
        if first["figure"] != figure:
            continue
        federated = not name.startswith("centralized")
        sizes = [f"{first[key] / 1e6:,.1f}" for key in ("up-bytes", "down-bytes")]
        fewer = ["", ""]
        if dense and figure in BYTES:
            fewer = [f"{dense[0][key] / first[key]:.1f}x" for key in ("up-bytes", "down-bytes")]
        cells = [*sizes, *fewer] if federated else [""] * 4
        body.append([name, perplexity(points, name), f"{first['tokens'] / 1e6:.2f}M", *cells])
    head = ["point", "perplexity", "tokens", "MB up", "MB down", "fewer up", "fewer down"]
    return printed([head, *body])


def grid(points: Points) -> str:
    """Return clients against local steps, at equal tokens and at equal sequential steps."""
    head = ["clients", *(f"H = {H}" for H in LOCAL_STEPS)]
    tables = []
    for title, suffix in (("At equal tokens:", ""), ("At equal sequential steps:", "-steps")):
        body = [
            [str(K), *(perplexity(points, f"photon-k{K}-h{H}{suffix if K != 4 else ''}")
                       for H in LOCAL_STEPS)]
            for K in (1, 2, 4, 8)
        ]  # fmt: skip
        tables.append(f"{title}\n\n{printed([head, *body])}")
    return "\n\n".join(tables)


def local_steps(points: Points) -> str:
    """Return what a larger H costs, by method and size, with 4 clients."""
    methods = ("photon", "photon-reset", "diloco", "sparse", "photon-small")
    head = ["4 clients", *(f"H = {H}" for H in LOCAL_STEPS)]
    body = [[m, *(perplexity(points, f"{m}-k4-h{H}") for H in LOCAL_STEPS)] for m in methods]
    return printed([head, *body])


def late(points: Points) -> str:
    """Return perplexity and simulated hours of each pacing at both spreads of speed."""
    body = []
    for name, own in points.items():
        if own[0]["figure"] == "late":
            pacing, _, ratio = name.rpartition("-")
            hours = f"{own[0]['simulated-s'] / 3600:.2f}"
            body.append([ratio, pacing, perplexity(points, name), hours])
    return printed([["spread of speeds", "pacing", "perplexity", "simulated hours"], *body])


def draw(points: Points) -> None:
    """Draw perplexity against megabytes up."""
    shown = {
        name: own
        for name, own in points.items()
        if own[0]["figure"] in BYTES and not name.startswith("centralized")
    }
    colours = {True: "C0", False: "C7"}
    plot_bytes(shown, "photon-bytes", lambda name: (colours[name.startswith("sparse")], "o"))
