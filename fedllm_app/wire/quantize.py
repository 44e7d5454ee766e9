"""Values as bytes: fp32, fp16, bf16, few levels (levels.py), or even ones (u2 to u16, uniform.py).

The floats round to the nearest, ties to even. Every type has one reserved code that no value
takes: all bits set in a float (a NaN), the lowest number in int8 and int4, 14 in q4, 6 in q3 and 2
in q2, which have one level fewer where it is used. It marks a coordinate not sent. u2 to u16 have
no such code, since all are levels: they are never marked.

A value beyond the largest of its type is refused, not saturated: it means that training has
diverged or that the type is wrong, and a clipped update would hide both.

Shapes: N values of one section.
"""

from typing import Literal, get_args

import numpy as np

from fedllm_app.core.errors import WireError
from fedllm_app.wire import levels, uniform
from fedllm_app.wire.blocks import parts
from fedllm_app.wire.pairs import quantize_pairs
from fedllm_app.wire.table import fitted_table, table_for

Marking = Literal["fp32", "fp16", "bf16", "int8", "int4", "q4", "q3", "q2"]
Uniform = Literal[
    "u2", "u3", "u4", "u5", "u6", "u7", "u8", "u9", "u10", "u11", "u12", "u13", "u14", "u15", "u16"
]
ValueType = Literal[Marking, Uniform]
VALUE_TYPES: tuple[str, ...] = get_args(Marking)  # that can mark what is not sent
ALL_TYPES: tuple[str, ...] = (*VALUE_TYPES, *get_args(Uniform))
BITS = {"fp32": 32, "fp16": 16, "bf16": 16} | levels.BITS | uniform.BITS
_BF16_MOST = float(np.uint32(0x7F7F0000).view(np.float32))
LARGEST = dict.fromkeys(ALL_TYPES, _BF16_MOST) | {
    "fp32": float(np.finfo(np.float32).max),
    "fp16": 65504.0,
}
WORD: dict[str, type[np.unsignedinteger]] = {
    "fp32": np.uint32,
    "fp16": np.uint16,
    "bf16": np.uint16,
}
NOT_SENT = {"fp32": 0xFFFFFFFF, "fp16": 0xFFFF, "bf16": 0xFFFF} | levels.NOT_SENT


def value_bytes(
    N: int, value_type: str, block: int, marked: bool = False, stretches: int = 0
) -> int:
    """Return the length of a section of N values, some of them marked as not sent or none.

    Parameters
    ----------
    stretches : of u2 to u16, each of one tensor.
    """
    head = uniform.head_bytes(stretches)
    if value_type in levels.BITS:
        head = levels.head_bytes(N, value_type, block, marked)
    return head + -(-N * BITS[value_type] // 8)


def pack_values(
    values_N: np.ndarray,
    value_type: str,
    block: int,
    rng: np.random.Generator | None,
    out: np.ndarray,
    count_S: np.ndarray | None = None,
) -> None:
    """Write the values into `out`, uint8 of the length that `value_bytes` says.

    Parameters
    ----------
    values_N : float32 array of shape (N,)
    block : values that share a scale (int8 and int4).
    rng : draws the rounding of few levels, so that means are right; None rounds to the nearest, on
        a table that is fitted to the values. The floats ignore it.
    count_S : values of each stretch of u2 to u16; the other types have none.

    Raises
    ------
    WireError
        If a value is not finite or too large for the type.
    """
    if count_S is not None and count_S.size:
        _check_range(values_N, value_type)
        uniform.pack_uniform(values_N, BITS[value_type], count_S, rng, out)
    else:
        _pack(values_N, None, values_N.size, value_type, block, rng, out)


def pack_marked(
    values_K: np.ndarray,
    positions_K: np.ndarray,
    P: int,
    value_type: str,
    block: int,
    rng: np.random.Generator | None,
    out: np.ndarray,
) -> None:
    """Write all P coordinates into `out`, those not at a position as the reserved code.

    `out` has the length of a marked section of P values; errors as `pack_values`.
    """
    _pack(values_K, positions_K, P, value_type, block, rng, out)


def _pack(
    values_K: np.ndarray,
    positions_K: np.ndarray | None,
    N: int,
    value_type: str,
    block: int,
    rng: np.random.Generator | None,
    out: np.ndarray,
) -> None:
    """Write N codes, those not at a position as the reserved one; None is all of them."""
    if N == 0:
        return
    _check_range(values_K, value_type)
    if value_type not in levels.BITS:
        words = out.view(np.dtype(WORD[value_type]).newbyteorder("<"))
        for part in parts(N):
            values, absent = _part(values_K, positions_K, part)
            words[part] = _words(values, value_type)
            if absent is not None:
                words[part][absent] = NOT_SENT[value_type]
        return
    marked, bits, level_L = positions_K is not None, BITS[value_type], np.zeros(0, np.float32)
    size = levels.head_bytes(N, value_type, block, marked)
    head, codes = out[:size].view("<f4"), out[size:]
    if value_type in levels.TABLE:
        L = levels.levels_of(value_type, marked)
        level_L = table_for(values_K, L) if rng else fitted_table(values_K, L)
        head[:] = level_L
    stretch = levels.stretch_of(value_type, block)
    for part in parts(N, max(stretch, 8)):
        values, absent = _part(values_K, positions_K, part)
        if value_type == levels.PAIRS:
            pairs, codes_N = quantize_pairs(values, None if absent is None else ~absent, rng)
            scales = pairs.reshape(-1)
        else:
            scales, codes_N = levels.quantize(values, value_type, block, rng, level_L)
        if absent is not None:
            codes_N[absent] = NOT_SENT[value_type]
        if scales.size:
            each = levels.levels_of(value_type, marked) if value_type == levels.PAIRS else 1
            head[part.start // stretch * each :][: scales.size] = scales
        packed = levels.pack_codes(codes_N, bits)
        codes[part.start * bits // 8 :][: packed.size] = packed


def _part(
    values_K: np.ndarray, positions_K: np.ndarray | None, part: slice
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return one part of all values, 0 where none is sent, and where none is; None is nowhere."""
    if positions_K is None:
        return values_K[part], None
    first, last = np.searchsorted(positions_K, (part.start, part.stop))
    at = positions_K[first:last] - part.start
    values = np.zeros(part.stop - part.start, dtype=np.float32)
    values[at] = values_K[first:last]
    absent = np.ones(values.size, dtype=np.bool_)
    absent[at] = False
    return values, absent


def _words(values_N: np.ndarray, value_type: str) -> np.ndarray:
    """Return floats as unsigned integers of their own width."""
    if value_type == "fp32":
        return np.ascontiguousarray(values_N, dtype=np.float32).view(np.uint32)
    if value_type == "fp16":
        return values_N.astype(np.float16).view(np.uint16)
    bits_N = np.ascontiguousarray(values_N).view(np.uint32)
    rounded_N = bits_N >> np.uint32(16)
    rounded_N &= np.uint32(1)
    rounded_N += bits_N
    rounded_N += np.uint32(0x7FFF)
    rounded_N >>= np.uint32(16)
    return rounded_N.astype(np.uint16)


def _check_range(values_N: np.ndarray, value_type: str) -> None:
    if not values_N.size:
        return
    # NaN goes through min and max, so that two passes without a copy find everything.
    largest = max(-float(values_N.min()), float(values_N.max()))
    if not largest <= LARGEST["fp32"]:
        raise WireError(
            "a value to send is NaN or infinite; a lower learning rate may help", "non-finite"
        )
    if largest > LARGEST[value_type]:
        raise WireError(
            f"a value to send has magnitude {largest!r}; {value_type} holds at most "
            f"{LARGEST[value_type]!r}. Set wire.up-values or wire.down-values to 'bf16' or 'fp32'"
        )
