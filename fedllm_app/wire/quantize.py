"""Values as bytes: fp32, fp16, bf16, or the few levels of int8, int4, q4 and q3 (levels.py).

The floats round to the nearest, ties to even. Every type has one reserved code that no value
takes: all bits set in a float (a NaN), the lowest number in int8 and int4, 14 in q4 and 6 in q3,
which have one level fewer where it is used. It marks a coordinate not sent.

A value beyond the largest of its type is refused, not saturated: it means that training has
diverged or that the type is wrong, and a clipped update would hide both.

Shapes: N values of one section.
"""

from typing import Literal, get_args

import numpy as np

from fedllm_app.core.errors import WireError
from fedllm_app.wire import levels

ValueType = Literal["fp32", "fp16", "bf16", "int8", "int4", "q4", "q3"]
VALUE_TYPES: tuple[str, ...] = get_args(ValueType)
BITS = {"fp32": 32, "fp16": 16, "bf16": 16} | levels.BITS
_BF16_MOST = float(np.uint32(0x7F7F0000).view(np.float32))
LARGEST = dict.fromkeys(VALUE_TYPES, _BF16_MOST) | {
    "fp32": float(np.finfo(np.float32).max),
    "fp16": 65504.0,
}
_WORD: dict[str, type[np.unsignedinteger]] = {
    "fp32": np.uint32,
    "fp16": np.uint16,
    "bf16": np.uint16,
}
NOT_SENT = {"fp32": 0xFFFFFFFF, "fp16": 0xFFFF, "bf16": 0xFFFF} | levels.NOT_SENT


def value_bytes(N: int, value_type: str, block: int, marked: bool = False) -> int:
    """Return the length of a section of N values, some of them marked as not sent or none."""
    few = value_type in levels.BITS
    head = levels.head_bytes(N, value_type, block, marked) if few else 0
    return head + -(-N * BITS[value_type] // 8)


def pack_values(
    values_N: np.ndarray,
    value_type: str,
    block: int,
    rng: np.random.Generator | None,
    out: np.ndarray,
    absent_N: np.ndarray | None = None,
) -> None:
    """Write the values into `out`, uint8 of shape (value_bytes(N, value_type, block),).

    Parameters
    ----------
    values_N : float32 array of shape (N,)
    block : values that share a scale (int8 and int4).
    rng : draws the rounding of few levels; the floats ignore it.
    absent_N : values that are marked as not sent; None if all are sent.

    Raises
    ------
    WireError
        If a value is not finite or too large for the type, or if few levels are given no rng.
    """
    if values_N.size == 0:
        return
    _check_range(values_N, value_type)
    if value_type in levels.BITS:
        if rng is None:
            raise WireError(f"{value_type} needs a random generator for its rounding; got None")
        head, codes_N = levels.quantize(values_N, value_type, block, rng, absent_N)
        out[: 4 * head.size] = head.astype("<f4", copy=False).view(np.uint8)
        out[4 * head.size :] = levels.pack_codes(codes_N, BITS[value_type])
        return
    words_N = _words(values_N, value_type)
    if absent_N is not None:
        words_N = np.where(absent_N, words_N.dtype.type(NOT_SENT[value_type]), words_N)
    out[:] = words_N.astype(words_N.dtype.newbyteorder("<"), copy=False).view(np.uint8)


def unpack_values(data: np.ndarray, N: int, value_type: str, block: int) -> np.ndarray:
    """Return the float32 values of a section in which every coordinate is sent.

    Raises
    ------
    WireError
        If a value is not finite, or is the code of a coordinate not sent.
    """
    return _unpack(data, _codes(data, N, value_type, block, False), value_type, block, None)


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
    dense_P = np.zeros(P, dtype=np.float32)
    dense_P[positions_K] = values_K
    absent_P = np.ones(P, dtype=np.bool_)
    absent_P[positions_K] = False
    pack_values(dense_P, value_type, block, rng, out, absent_P)


def unpack_marked(
    data: np.ndarray, P: int, value_type: str, block: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (int64 positions, float32 values) of the coordinates that were sent.

    Raises
    ------
    WireError
        If a value that was sent is not finite.
    """
    codes_P = _codes(data, P, value_type, block, True)
    positions_K = np.flatnonzero(codes_P != NOT_SENT[value_type]).astype(np.int64, copy=False)
    return positions_K, _unpack(data, codes_P, value_type, block, positions_K)


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


def _codes(data: np.ndarray, N: int, value_type: str, block: int, marked: bool) -> np.ndarray:
    """Return the N codes after any scales or levels, as unsigned integers."""
    if value_type in levels.BITS:
        head = levels.head_bytes(N, value_type, block, marked)
        return levels.unpack_codes(data[head:], N, BITS[value_type])
    return data.view(np.dtype(_WORD[value_type]).newbyteorder("<"))


def _check_range(values_N: np.ndarray, value_type: str) -> None:
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


def _unpack(
    data: np.ndarray, codes_N: np.ndarray, value_type: str, block: int, chosen: np.ndarray | None
) -> np.ndarray:
    """Return the finite float32 values of a section, all or those at the chosen indices."""
    if value_type in levels.BITS:
        size = levels.head_bytes(codes_N.size, value_type, block, chosen is not None)
        head = data[:size].view("<f4").astype(np.float32)
        return levels.dequantize(head, codes_N, value_type, block, chosen)
    codes = codes_N if chosen is None else codes_N[chosen]
    values: np.ndarray
    if value_type == "bf16":
        values = (codes.astype(np.uint32) << np.uint32(16)).view(np.float32)
    elif value_type == "fp16":
        values = codes.view("<f2").astype(np.float32)
    else:
        values = codes.view("<f4").astype(np.float32, copy=not codes.flags.aligned)
    if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise WireError(
            "a value is NaN, infinite, or marked as not sent; expected finite values", "non-finite"
        )
    return values
