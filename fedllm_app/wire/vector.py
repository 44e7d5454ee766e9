"""A set of coordinates of a vector as a payload: what server and device both send by.

Shapes: P trainable parameters, K coordinates sent.
"""

import numpy as np

from fedllm_app.core.region import Where, positions_of
from fedllm_app.wire.codec import encode
from fedllm_app.wire.slices import Origin


def encode_set(
    values_K: np.ndarray,
    where: Where,
    origin: Origin,
    *,
    explicit: bool,
    value_type: str,
    block: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the payload of the values of a set, uint8; errors as `encode`.

    Parameters
    ----------
    where : the set; None is all P.
    explicit : its positions travel; else the receiver derives them, or has them already.
    """
    return encode(
        values_K,
        positions_of(where, origin.P) if explicit else None,
        origin,
        value_type=value_type,
        block=block,
        derived=where is not None and not explicit,
        rng=rng,
    )
