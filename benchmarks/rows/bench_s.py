"""bench-S: bytes of real updates, and accuracy for a fraction of dense's bytes.

Dense at its best rates and one point of the frontier are played for 100 rounds each, by the sweep
that `make reproduce` uses and into the same home: what is finished there is not played again.
"""

from pathlib import Path
from statistics import fmean

import numpy as np

from benchmarks.reproduce.results import Row as Measured
from benchmarks.reproduce.results import best_rates
from benchmarks.reproduce.results import measure as measured_run
from benchmarks.rows.kernels import NO_BASE
from benchmarks.rows.payload import DENSITIES, PROMISED, entropy_bytes, sizes
from benchmarks.rows.row import Context, Row
from benchmarks.studies.frontier import entries
from benchmarks.studies.payloads import changes
from fedllm_app.study.sweep import play
from fedllm_app.wire.codec import dense_bytes
from fedllm_app.wire.select import top_positions
from fedllm_app.wire.slices import origin_of

POINT = 1  # of the frontier's entries; 0 is dense
CLIENTS = 4
WITHIN = 0.01  # of dense's accuracy at the last round
NAMES = ("accuracy for upload bytes, bench-S", "accuracy for download bytes, bench-S")


def measure(context: Context) -> list[Row]:
    """Return the rows of this group."""
    lacking = context.lacks("20newsgroups", "minilm")
    if lacking:
        return [Row(what=name, skipped=lacking) for name in NAMES]
    rates = best_rates(context.home)
    every = entries(rates)
    dense, point = every[0], every[POINT]
    places = {
        "data.train": context.places["20newsgroups"],
        "model.source": context.places["minilm"],
    }
    cells = [cell for entry in (dense, point) if (cell := entry.cell(rates, places))]
    play(cells, context.home)
    runs = [measured_run(entry, rates, context.home) for entry in (dense, point)]
    return [*real_bytes(context.home / "runs" / point.name), *accuracy(*runs)]


def real_bytes(folder: Path) -> list[Row]:
    """Return the bytes of what some clients would send after a run's last round."""
    deltas, parts = changes(folder, CLIENTS)
    layout = parts.model.layout
    P, origin = layout.size, origin_of(layout, NO_BASE)
    by_entropy, by_type = {}, dict.fromkeys(PROMISED, 0.0)
    for name, density in DENSITIES.items():
        supports = [top_positions(delta_P, density) for delta_P in deltas]
        pairs = [(d[at], at) for d, at in zip(deltas, supports, strict=True)]
        taken = fmean(sizes(values, at, origin, "fp32").positions for values, at in pairs)
        by_entropy[name] = taken / entropy_bytes(P, density)
        if name == "1/16":
            for kind in PROMISED:
                total = fmean(sizes(values, at, origin, kind).total for values, at in pairs)
                by_type[kind] = dense_bytes(P) / total
    worst = max(by_entropy.values())
    denser = max(value for name, value in by_entropy.items() if name != "1/1000")
    about = {"parameters": P, "updates": len(deltas)}
    return [
        Row(
            what="bytes of positions, real updates, worst of 1/2 to 1/1000", measured=worst,
            unit="of entropy", peer="entropy", theirs=1.0, judged=worst, about="x",
            target=("at most", 1.02), details=about | {"by density": by_entropy},
        ),
        Row(
            what="bytes of positions, real updates, worst of 1/2 to 1/100", measured=denser,
            unit="of entropy", peer="entropy", theirs=1.0, judged=denser, about="x",
            target=("at most", 1.0), details=about,
        ),
        *(
            Row(
                what=f"upload at 1/16, {kind} values, real updates", measured=less,
                unit="times fewer", peer="dense fp32", judged=less, about="x fewer",
                target=("at least", PROMISED[kind]), details=about,
            )
            for kind, less in by_type.items()
        ),
    ]  # fmt: skip


def accuracy(dense: Measured, point: Measured) -> list[Row]:
    """Return times fewer bytes each way, 0 if the point is not within 1 point of dense."""
    last = str(point["rounds"])
    good = point["score"] >= dense["score"] - WITHIN
    rows = []
    for name, way, target in zip(NAMES, ("up", "down"), (40.0, 10.0), strict=True):
        less = dense[f"{way}-bytes"][last] / point[f"{way}-bytes"][last]
        words = (
            "" if good else f", {100 * (point['score'] - dense['score']):+.1f} points from dense"
        )
        rows.append(
            Row(
                what=name, measured=point[f"{way}-bytes"][last] / 1e6, unit="MB",
                peer="dense fp32 at its best rates", theirs=dense[f"{way}-bytes"][last] / 1e6,
                judged=less if good else 0.0, about=f"x fewer{words}", target=("at least", target),
                details={"accuracy": {"dense": dense["score"], "point": point["score"]},
                         "run": point["run"], "settings": point["settings"]},
            )
        )  # fmt: skip
    return [*rows, to_target(dense, point)]


def to_target(dense: Measured, point: Measured) -> Row:
    """Return the upload bytes until accuracy is within 1 point of dense's at the last round."""
    wanted, last = dense["score"] - WITHIN, str(point["rounds"])
    sent = {}
    for name, run in (("dense", dense), ("point", point)):
        when = next((t for t, a in run["accuracy"].items() if int(t) and a >= wanted), None)
        sent[name] = run["up-bytes"][when] / 1e6 if when else np.inf
    return Row(
        what=f"upload to accuracy {wanted:.3f}, bench-S", measured=sent["point"], unit="MB",
        peer="dense fp32", theirs=sent["dense"], judged=sent["dense"] / sent["point"],
        about="x fewer", details={"rounds": int(last), "run": point["run"]},
    )  # fmt: skip
