"""What a round costs beside training: choosing, encoding, decoding, folding, stepping.

All on the layout of GPT-2 small with adapters of rank 16 on its four matrices a layer, which is the
thesis' text model: P = 2.36 million. Everything here runs on one core; torch is given one thread.

Shapes: P trainable parameters, K coordinates sent.
"""

import tracemalloc
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np
import torch
from flwr.common import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from benchmarks.rows.row import Context, Row, alternately, ratio_of, threads
from fedllm_app.core.layout import ParamLayout
from fedllm_app.server.aggregate import Mean
from fedllm_app.server.optimizer import ServerOptimizer
from fedllm_app.server.settings import ServerSettings
from fedllm_app.wire.codec import Update, decode, decode_blocks, encode
from fedllm_app.wire.header import Origin
from fedllm_app.wire.select import top_positions
from fedllm_app.wire.slices import origin_of, slices_of

NO_BASE = "0" * 32
LIMIT_MS = 40.0
MATRICES = {"attn.c_attn": (768, 2304), "attn.c_proj": (768, 768), "mlp.c_fc": (768, 3072),
            "mlp.c_proj": (3072, 768)}  # fmt: skip


def gpt2_layout(layers: int = 12, rank: int = 16) -> ParamLayout:
    """Return the layout of adapters on every matrix of GPT-2 small."""
    shapes = {
        f"transformer.h.{layer}.{name}.lora_{half}.weight": shape
        for layer in range(layers)
        for name, (inner, outer) in MATRICES.items()
        for half, shape in (("A", (rank, inner)), ("B", (outer, rank)))
    }
    return ParamLayout(tuple(shapes), tuple(shapes.values()))


def uneven(layout: ParamLayout, rng: np.random.Generator) -> np.ndarray:
    """Return values whose slices differ in size, as those of a real update do: float32 (P,)."""
    cut = slices_of(layout)
    number_P = np.repeat(np.arange(cut.lengths.size), cut.lengths)
    place_P = np.arange(layout.size) - cut.starts[number_P]
    values_P = rng.standard_normal(layout.size, dtype=np.float32)
    scale_S = 1e-3 * rng.lognormal(0.0, 1.0, cut.lengths.size)
    values_P[cut.flat(number_P, place_P)] *= scale_S[number_P].astype(np.float32)
    return values_P


def measure(context: Context) -> list[Row]:
    """Return the rows of this group."""
    layout, rng = gpt2_layout(), np.random.default_rng(0)
    repeats = 5 if context.quick else 15
    with threads(1):
        return [
            *coding(layout, rng, repeats),
            selecting(layout, rng, repeats),
            *folding(layout, rng, 100 if context.quick else 1000),
            stepping(rng, repeats),
        ]


def coding(layout: ParamLayout, rng: np.random.Generator, repeats: int) -> list[Row]:
    """Encode and decode at 1/16, by value type; the worst of them is what is judged."""
    P, origin = layout.size, origin_of(layout, NO_BASE)
    dense_P, out_P = uneven(layout, rng), np.empty(P, np.float32)
    at = top_positions(dense_P, 1 / 16)
    found: dict[str, dict[str, float]] = {"encode": {}, "decode": {}}
    copies: list[float] = []
    for kind in ("fp32", "int8", "q4"):
        write = partial(pack, dense_P[at], at, origin, kind)
        payload = write()
        read = partial(decode, payload, origin)
        assert np.array_equal(read().positions, at)
        wrote, was_read, copied = alternately(
            repeats, write, read, partial(np.copyto, out_P, dense_P)
        )
        found["encode"][kind] = median(wrote) * 1e3
        found["decode"][kind] = median(was_read) * 1e3
        copies += copied
    return [
        Row(
            what=f"{way} {P:,} parameters at 1/16", measured=max(by_kind.values()), unit="ms",
            peer="copy of the dense vector", theirs=median(copies) * 1e3,
            judged=max(by_kind.values()), about="ms", target=("at most", LIMIT_MS),
            details={"ms by value type": by_kind},
        )
        for way, by_kind in found.items()
    ]  # fmt: skip


def pack(values: np.ndarray, at: np.ndarray, origin: Origin, kind: str) -> np.ndarray:
    """Return one payload; its rounding is drawn from a fixed seed."""
    rng = np.random.default_rng(1)
    return encode(values, at, origin, value_type=kind, block=256, rng=rng)


def selecting(layout: ParamLayout, rng: np.random.Generator, repeats: int) -> Row:
    """Exact top-k with ties settled, against numpy's partition alone."""
    values_P, density = uneven(layout, rng), 1 / 16
    magnitude_P, rank = np.abs(values_P), layout.size - int(layout.size * density)
    ours, theirs = alternately(
        repeats, lambda: top_positions(values_P, density), lambda: np.partition(magnitude_P, rank)
    )
    return Row(
        what=f"exact top-k of {layout.size:,} at 1/16", measured=median(ours) * 1e3, unit="ms",
        peer="numpy.partition", theirs=median(theirs) * 1e3, judged=ratio_of(ours, theirs),
        about="x as long", target=("at most", 1.5),
    )  # fmt: skip


def folding(layout: ParamLayout, rng: np.random.Generator, replies: int) -> list[Row]:
    """Fold replies at density 0.01, and decode and fold, against Flower's aggregate, dense."""
    P, origin, distinct = layout.size, origin_of(layout, NO_BASE), 8
    vectors = [uneven(layout, rng) for _ in range(distinct)]
    chosen = [top_positions(vector, 0.01) for vector in vectors]
    updates = [Update(at, v[at]) for v, at in zip(vectors, chosen, strict=True)]
    payloads = [pack(u.values, u.positions, origin, "fp32") for u in updates]
    dense = [dense_reply(layout, vector) for vector in vectors]

    def fold() -> None:
        mean = Mean(P, cohort=replies)
        for i in range(replies):
            mean.fold(updates[i % distinct].positions, updates[i % distinct].values)
        mean.mean()

    def decode_and_fold() -> None:
        mean = Mean(P, cohort=replies)
        for i in range(replies):
            update = decode_blocks(payloads[i % distinct], origin)
            mean.fold(update.positions, update.values)
        mean.mean()

    # Flower's needs every reply at once; a tenth of them is timed, as its time is linear in them.
    share = max(10, replies // 10)
    records = [dense[i % distinct] for i in range(share)]
    folds, both, flower = alternately(
        3, fold, decode_and_fold, lambda: aggregate_arrayrecords(records, "weight")
    )
    theirs = median(flower) / share * 1e3
    name = f"{replies:,} replies of {P:,} at density 0.01"
    rows = [
        Row(
            what=f"{verb} {name}", measured=median(took) / replies * 1e3, unit="ms a reply",
            peer="Flower's aggregate, dense", theirs=theirs,
            judged=theirs / (median(took) / replies * 1e3), about="x as fast", target=target,
            details={"replies that Flower aggregated": share, "distinct replies": distinct},
        )
        for verb, took, target in (
            ("fold", folds, ("at least", 30.0)), ("decode and fold", both, None),
        )
    ]  # fmt: skip
    return [*rows, memory_of(decode_and_fold, P, replies)]


def memory_of(work: Callable[[], None], P: int, replies: int) -> Row:
    """Return the most memory that folding takes at once beside the payloads."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1] / (4 * P)
    tracemalloc.stop()
    return Row(
        what=f"memory of folding {replies:,} replies", measured=peak, unit="dense vectors",
        peer="Flower holds every reply", theirs=float(replies), judged=peak,
        about="dense vectors", target=("at most", 4),
    )  # fmt: skip


def dense_reply(layout: ParamLayout, vector_P: np.ndarray) -> RecordDict:
    """Return a reply as Flower's strategies take it: one Array per tensor, and a weight."""
    tensors = layout.unflatten(torch.from_numpy(vector_P))
    arrays = {name: Array(np.ascontiguousarray(t.numpy())) for name, t in tensors.items()}
    return RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"weight": 1.0})})


def stepping(rng: np.random.Generator, repeats: int) -> Row:
    """Take the server's Adam step, and torch's on a tensor of its own."""
    P = 20_000_000
    start_P = rng.standard_normal(P, dtype=np.float32)
    gradient_P = rng.standard_normal(P, dtype=np.float32)
    ours = ServerOptimizer(ServerSettings(optimizer="adam", lr=0.01).resolved(), start_P)
    tensor = torch.from_numpy(start_P.copy())
    tensor.grad = torch.from_numpy(gradient_P)
    bare = torch.optim.Adam([tensor], lr=0.01)
    took, theirs = alternately(repeats, lambda: ours.step(gradient_P), bare.step)
    return Row(
        what=f"server step, {P:,} parameters", measured=median(took) * 1e3, unit="ms",
        peer="torch.optim.Adam in place", theirs=median(theirs) * 1e3,
        judged=ratio_of(took, theirs), about="x as long", target=("at most", 1.2),
    )  # fmt: skip
