"""Bytes of supports spread at random, the worst case: beside their entropy, and as whole uploads.

Shapes: P trainable parameters, K coordinates sent.
"""

from math import log2

import numpy as np

from benchmarks.rows.kernels import NO_BASE, gpt2_layout
from benchmarks.rows.row import Context, Row
from fedllm_app.wire.codec import PayloadSize, dense_bytes, encode, size_of
from fedllm_app.wire.header import Origin
from fedllm_app.wire.slices import origin_of

DENSITIES = {"1/2": 1 / 2, "1/4": 1 / 4, "1/16": 1 / 16, "1/64": 1 / 64, "1/100": 1 / 100,
             "1/1000": 1 / 1000}  # fmt: skip
# Value type -> how many times fewer bytes than dense fp32 are promised at an upload of 1/16.
PROMISED = {"int8": 30.0, "int4": 45.0}


def entropy_bytes(P: int, density: float) -> float:
    """Return the bytes that positions of this density take on average, at least: P H(d) / 8."""
    spread = density * log2(density) + (1 - density) * log2(1 - density)
    return -P * spread / 8


def sizes(values: np.ndarray, at: np.ndarray, origin: Origin, kind: str) -> PayloadSize:
    """Return the bytes of one payload by part."""
    rng = np.random.default_rng(1)
    return size_of(encode(values, at, origin, value_type=kind, block=256, rng=rng))


def measure(context: Context) -> list[Row]:
    """Return the rows of this group."""
    layout = gpt2_layout(3 if context.quick else 12)
    P, rng = layout.size, np.random.default_rng(0)
    origin = origin_of(layout, NO_BASE)
    by_entropy, by_type = {}, {}
    for name, density in DENSITIES.items():
        at = np.sort(rng.choice(P, round(P * density), replace=False))
        values = rng.standard_normal(at.size, dtype=np.float32)
        positions = sizes(values, at, origin, "fp32").positions
        by_entropy[name] = positions / entropy_bytes(P, at.size / P)
        if name == "1/16":
            by_type = {
                kind: dense_bytes(P) / sizes(values, at, origin, kind).total for kind in PROMISED
            }
    worst = max(by_entropy.values())
    rows = [
        Row(
            what="bytes of positions, random supports, worst of 1/2 to 1/1000", measured=worst,
            unit="of entropy", peer="entropy", theirs=1.0, judged=worst, about="x",
            target=("at most", 1.02), details={"by density": by_entropy, "parameters": P},
        )
    ]  # fmt: skip
    return rows + [
        Row(
            what=f"upload at 1/16, {kind} values, random support", measured=less,
            unit="times fewer", peer="dense fp32", judged=less, about="x fewer",
            target=("at least", PROMISED[kind]), details={"parameters": P},
        )
        for kind, less in by_type.items()
    ]  # fmt: skip
