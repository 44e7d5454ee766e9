"""One update as one array of bytes: a header of 64, the positions, the values.

The encoder writes the smallest of bitmap, Rice-coded gaps, positions by slice of a tensor, and
dense values in which a reserved code marks what is not sent. It is therefore never larger than the
dense update of the same value type, but for u2 to u16, which have no code to spare. The decoder
takes hostile bytes: whatever it is given, it returns what an encoder could have written for this
layout, base and support, or raises WireError before it takes memory beyond a few times the payload
and P. docs/wire-format.md specifies every byte.

Shapes: P flat trainable parameters, K coordinates sent.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedllm_app.core.region import Where
from fedllm_app.wire import positions as where
from fedllm_app.wire.checks import check_arguments, check_expected
from fedllm_app.wire.grid import most_bytes
from fedllm_app.wire.gridded import read_gridded
from fedllm_app.wire.header import (
    GRID,
    HEADER_BYTES,
    MARKED,
    Header,
    check_origin,
    digest,
    read_header,
)
from fedllm_app.wire.marks import Sent, listed
from fedllm_app.wire.modes import read_positions, write_positions
from fedllm_app.wire.quantize import pack_marked, pack_values, value_bytes
from fedllm_app.wire.settings import WireSettings as WireSettings
from fedllm_app.wire.slices import Origin
from fedllm_app.wire.uniform import BITS as UNIFORM
from fedllm_app.wire.uniform import stretches_of
from fedllm_app.wire.unpack import Marked, Values

Expected = Literal["any", "all", "explicit", "derived"]


@dataclass(frozen=True)
class Update:
    """Decoded coordinates.

    Attributes
    ----------
    positions : ascending int64 array of shape (K,), or None when all P are sent.
    values : float32 array of shape (K,); may be a read-only view of the payload.
    """

    positions: Where
    values: np.ndarray


@dataclass(frozen=True)
class Coded:
    """An update whose values are decoded block by block, if they are not yet.

    Attributes
    ----------
    positions : as those of an `Update`, or one bit for each coordinate.
    values : float32 array of shape (K,), or the same still coded; `blocks_of` reads either.
    """

    positions: Sent
    values: np.ndarray | Values


@dataclass(frozen=True)
class PayloadSize:
    """Bytes of one payload by part; `values` includes scales and levels."""

    header: int
    positions: int
    values: int

    @property
    def total(self) -> int:
        """Length of the payload."""
        return self.header + self.positions + self.values


def dense_bytes(P: int) -> int:
    """Return the length of a payload of all P coordinates in fp32."""
    return HEADER_BYTES + value_bytes(P, "fp32", 256)


def max_bytes(
    K: int,
    P: int,
    value_type: str,
    block: int,
    explicit: bool,
    grid_bits: float = 0.0,
    tensors: int = 1,
) -> int:
    """Return the length that no payload of K among P coordinates exceeds.

    Without explicit positions (all, or derived) it is the exact length, but for a grid.

    Parameters
    ----------
    tensors : that the K lie in, or may lie in: u2 to u16 have bounds of each.
    """
    if value_type == GRID:
        positions = min(where.bitmap_bytes(P), where.max_rice_bytes(K, P)) if explicit else 0
        return HEADER_BYTES + positions + most_bytes(K, grid_bits)
    uniform = value_type in UNIFORM
    values = value_bytes(K, value_type, block, stretches=min(K, tensors) if uniform else 0)
    if explicit:
        positions = min(where.bitmap_bytes(P), where.max_rice_bytes(K, P))
        marked = np.inf if uniform else value_bytes(P, value_type, block)
        values = int(min(positions + values, marked))
    return HEADER_BYTES + values


def encode(
    values_K: np.ndarray,
    positions: np.ndarray | None,
    origin: Origin,
    *,
    value_type: str,
    block: int,
    derived: bool = False,
    rng: np.random.Generator | None = None,
    within: Where = None,
) -> np.ndarray:
    """Return the payload of K coordinates.

    Parameters
    ----------
    values_K : float32 array of shape (K,)
    positions : strictly ascending integers of shape (K,); None sends all P, or derived ones.
    origin : whose parameters they are.
    value_type : one of VALUE_TYPES.
    block : values that share a scale in int8 and int4; a power of two, 16 to 65536.
    derived : True when the receiver knows the positions, so that none are sent.
    rng : draws the rounding of few levels; None rounds to the nearest.
    within : the derived set, by which u2 to u16 know the tensors; unknown, it is taken for one.

    Returns
    -------
    uint8 array of at most 64 bytes more than P values of this type take; u2 to u16 may need a
    bitmap beside that, where they send all but a few.

    Raises
    ------
    WireError
        If positions and values do not match, a value is not finite or too large for its type.
    """
    values_K, P = np.asarray(values_K, dtype=np.float32), origin.P
    check_arguments(values_K, positions, P, value_type, block, derived)
    count_S, marked = np.zeros(0, np.int64), np.inf
    if value_type in UNIFORM:
        known = not derived or within is not None
        count_S = stretches_of(within if derived else positions, origin.slices if known else None)
        if not count_S.size:
            count_S = np.full(min(1, values_K.size), values_K.size)
    else:
        marked = value_bytes(P, value_type, block, True)
        marked -= value_bytes(values_K.size, value_type, block)
    written = write_positions(positions, origin, derived, marked)
    section, rice = written.section, written.rice
    header = Header(
        written.mode,
        value_type,
        block,
        P,
        values_K.size,
        digest("layout hash", origin.layout_hash),
        digest("base fingerprint", origin.fingerprint),
        section.size,
        rice.k if rice else 0,
        bool(rice and rice.shortened),
        stretches=count_S.size,
    )
    payload = np.empty(header.total, dtype=np.uint8)
    front = np.concatenate([header.pack(), section])
    payload[: front.size], out = front, payload[front.size :]
    if written.mode == MARKED and positions is not None:
        pack_marked(values_K, positions, P, value_type, block, rng, out)
    else:
        pack_values(values_K, value_type, block, rng, out, count_S)
    return payload


def decode(
    payload: np.ndarray,
    origin: Origin,
    *,
    expect: Expected = "any",
    count: int | None = None,
    derived: Where = None,
    value_type: str | None = None,
) -> Update:
    """Return the coordinates of a payload; its bytes may be hostile.

    Parameters
    ----------
    payload : uint8 array of one dimension.
    origin : of the receiver; the payload's must be the same.
    expect : the support that is acceptable: all P coordinates, explicit positions, or derived.
    count : the K that must have been sent; None for any.
    derived : ascending positions of a derived support; they are returned as they are.
    value_type : the type that must have been used; None for any.

    Raises
    ------
    WireError
        If the payload is malformed, foreign, not finite, or not the support expected.
    """
    coded = _decode(payload, origin, expect, count, derived, value_type)
    values, where = coded.values, listed(coded.positions)
    return Update(where, values.whole() if isinstance(values, Values) else values)


def decode_blocks(
    payload: np.ndarray,
    origin: Origin,
    *,
    expect: Expected = "any",
    count: int | None = None,
    derived: Where = None,
    value_type: str | None = None,
) -> Coded:
    """Return the same as `decode`, its values still coded: they are read block by block.

    Every value is checked before it returns. So whoever folds the blocks meets no refusal halfway.
    Parameters and errors are those of `decode`.
    """
    coded = _decode(payload, origin, expect, count, derived, value_type)
    if isinstance(coded.values, Values):
        _ = coded.values.largest
    return coded


def most_of(payload: np.ndarray, grid_bits: float) -> int:
    """Return the length that a later payload of the same set may have: on a grid, it grows."""
    header = read_header(payload)
    if header.value_type != GRID:
        return payload.size
    return HEADER_BYTES + header.position_bytes + most_bytes(header.K, grid_bits)


def size_of(payload: np.ndarray) -> PayloadSize:
    """Return the bytes of a payload by part, after the checks of its header and length."""
    header = read_header(payload)
    return PayloadSize(HEADER_BYTES, header.position_bytes, header.value_bytes)


def _decode(
    payload: np.ndarray,
    origin: Origin,
    expect: Expected,
    count: int | None,
    derived: Where,
    value_type: str | None,
) -> Coded:
    """Return header and positions checked and decoded, the values not yet unless marked."""
    payload = np.ascontiguousarray(payload)
    header, P = read_header(payload), origin.P
    check_origin(header, origin)
    check_expected(header, expect, count, derived, value_type)
    if header.value_type == GRID:
        found, grid = read_gridded(header, payload, origin, derived, None)
        return Coded(found, grid.values())
    section = payload[HEADER_BYTES : HEADER_BYTES + header.position_bytes]
    data = payload[HEADER_BYTES + header.position_bytes :]
    if header.mode == MARKED:
        marked = Marked(data, P, header.K, header.value_type, header.block)
        return Coded(marked.marks, marked)
    sent = read_positions(header, section, origin, derived)
    values = Values(data, header.K, header.value_type, header.block, header.stretches)
    return Coded(sent, values)
