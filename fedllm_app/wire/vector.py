"""A set of coordinates of a vector as a payload: what server and device both send by.

Shapes: P trainable parameters, K coordinates sent.
"""

import numpy as np

from fedllm_app.core.region import Where, positions_of
from fedllm_app.wire.codec import encode
from fedllm_app.wire.gridded import encode_gridded, grid_of
from fedllm_app.wire.header import GRID
from fedllm_app.wire.slices import Origin


def encode_set(
    values_K: np.ndarray,
    where: Where,
    origin: Origin,
    *,
    explicit: bool,
    value_type: str,
    block: int,
    rng: np.random.Generator | None = None,
    grid_bits: float = 0.0,
) -> np.ndarray:
    """Return the payload of the values of a set, uint8; errors as `encode`.

    Parameters
    ----------
    where : the set; None is all P.
    explicit : its positions travel; else the receiver derives them, or has them already.
    rng : draws the rounding of few levels; None rounds to the nearest.
    grid_bits : most bits for each value of type grid.
    """
    if value_type == GRID:
        grid = grid_of(values_K, where, origin, grid_bits)
        return encode_gridded(grid, where, origin, explicit=explicit)
    return encode(
        values_K,
        positions_of(where, origin.P) if explicit else None,
        origin,
        value_type=value_type,
        block=block,
        derived=where is not None and not explicit,
        rng=rng,
        within=where,
    )
