"""What a reply holds, once it is what was asked for: bytes from a client are hostile until here.

Shapes: P trainable parameters, K coordinates of one reply.
"""

import math

import numpy as np

from fedllm_app.core.errors import WireError
from fedllm_app.core.job import TrainMetrics
from fedllm_app.server.asked import Expected
from fedllm_app.wire.codec import Coded, decode_blocks
from fedllm_app.wire.marks import Sent, mask_of
from fedllm_app.wire.slices import Origin

MOST_COUNT = 1 << 48  # sums of these stay exact, and far below what a float holds
MOST_COSTS = 16  # names of costs that one job may report


def decoded(expected: Expected, origin: Origin, payload: np.ndarray) -> Coded:
    """Return the coordinates of one vector of a reply.

    Raises
    ------
    WireError
        If it is not what was asked for.
    """
    if payload.size > expected.most_bytes:
        raise WireError(f"update has {payload.size} bytes; expected at most {expected.most_bytes}")
    within, chosen = expected.within, expected.chosen
    update = decode_blocks(
        payload,
        origin,
        expect="explicit" if chosen else "all" if within is None else "derived",
        derived=None if chosen else within,
        count=expected.count if chosen else None,
        value_type=expected.value_type,
    )
    if chosen and update.positions is not None:
        _check_inside(update.positions, expected, origin.P)
    return update


def _check_inside(positions: Sent, expected: Expected, P: int) -> None:
    """Raise WireError unless positions are among those allowed, and hold those always sent."""
    within, always = expected.within, expected.always
    if within is None and always is None:
        return
    sent_P = mask_of(positions, P)
    if always is not None and not sent_P[always].all():
        raise WireError("positions that the plan sends whole are missing")
    if within is not None:
        for where in (within, always):
            if where is not None:
                sent_P &= ~mask_of(where, P)
        if sent_P.any():
            raise WireError("positions outside those that the plan allows")


def check_metrics(metrics: TrainMetrics) -> None:
    """Raise WireError if a client's sums are such that no training gives them."""
    for name in ("loss_sum", "train_s"):
        if not math.isfinite(value := getattr(metrics, name)):
            raise WireError(f"{name} is {value!r}; expected a number", "non-finite")
    for name in ("units", "examples", "steps", "train_s"):
        if not 0 <= getattr(metrics, name) < MOST_COUNT:
            raise WireError(f"{name} is not in 0 to 2^48")
    if len(metrics.costs) > MOST_COSTS:
        raise WireError(f"{len(metrics.costs)} costs are named; expected at most {MOST_COSTS}")
    for name, value in metrics.costs.items():
        if not 0 <= value < MOST_COUNT:  # no number is neither
            raise WireError(f"cost {name[:40]!r} is {value!r}; expected 0 to 2^48", "non-finite")
