"""Payloads whose values are on a grid: written as all others are, but for the value section.

Shapes: P flat trainable parameters, K coordinates sent.
"""

import numpy as np

from fedllm_app.core.region import Where, positions_of
from fedllm_app.core.versions import Version
from fedllm_app.wire.checks import check_expected
from fedllm_app.wire.grid import Grid, decode_grid, encode_grid, on_grid
from fedllm_app.wire.header import (
    ALL,
    GRID,
    HEADER_BYTES,
    Header,
    check_origin,
    digest,
    read_header,
)
from fedllm_app.wire.marks import listed
from fedllm_app.wire.modes import read_positions, write_positions
from fedllm_app.wire.slices import Origin, Slices

BLOCK = 256  # in the header, where a grid has no use for one


def grid_of(values_K: np.ndarray, where: Where, origin: Origin, bits: float) -> Grid:
    """Return the values of a set on the finest grid of at most some bits for each."""
    values = np.ascontiguousarray(values_K, dtype=np.float32)
    return on_grid(values, bits, origin.slices if where is None else None)


def encode_gridded(
    grid: Grid, where: Where, origin: Origin, *, explicit: bool, since: Version | None = None
) -> np.ndarray:
    """Return the payload of the values of a set, uint8.

    Parameters
    ----------
    where, explicit : as in `encode_set`.
    since : what the receiver holds of the same set; only the difference is sent.
    """
    positions = positions_of(where, origin.P) if explicit and where is not None else None
    derived = where is not None and not explicit
    written = write_positions(positions, origin, derived, np.inf)
    values = encode_grid(grid, _cut(written.mode, origin), since)
    header = Header(
        written.mode, GRID, BLOCK, origin.P, grid.codes.size,
        digest("layout hash", origin.layout_hash), digest("base fingerprint", origin.fingerprint),
        written.section.size,
        written.rice.k if written.rice else 0,
        bool(written.rice and written.rice.shortened),
        values.size,
    )  # fmt: skip
    return np.concatenate([header.pack(), written.section, values])


def decode_gridded(
    payload: np.ndarray, origin: Origin, *, derived: Where = None, since: Version | None = None
) -> tuple[Where, Grid]:
    """Return the set and the grid of a payload; errors as those of `codec.decode`.

    Parameters
    ----------
    derived : as in `codec.decode`.
    since : as the encoder had it.
    """
    header = read_header(payload)
    check_origin(header, origin)
    check_expected(header, "any", None, derived, GRID)
    return read_gridded(header, payload, origin, derived, since)


def read_gridded(
    header: Header, payload: np.ndarray, origin: Origin, derived: Where, since: Version | None
) -> tuple[Where, Grid]:
    """Return the set and the grid of a payload whose header is checked."""
    split = HEADER_BYTES + header.position_bytes
    found = listed(read_positions(header, payload[HEADER_BYTES:split], origin, derived))
    return found, decode_grid(payload[split:], header.K, _cut(header.mode, origin), since)


def _cut(mode: int, origin: Origin) -> Slices | None:
    """Return how values are cut: a whole vector by slice, any other in stretches."""
    return origin.slices if mode == ALL else None
