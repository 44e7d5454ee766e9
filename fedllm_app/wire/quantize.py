"""Values as bytes: fp32, fp16, bf16, or int8 with stochastic rounding and a scale per block.

int8 is the uniform quantizer of QSGD (Alistarh et al. 2017, section 3.1) with 127 levels each
way and the largest magnitude of a block as its norm: unbiased, so that means over many devices
converge. The floats round to the nearest, ties to even. Every type has one reserved code that
no value takes: all bits set in a float (a NaN), -128 in int8. It marks a coordinate not sent.

A value beyond the largest of its type is refused, not saturated: it means that training has
diverged or that the type is wrong, and a clipped update would hide both.

Shapes: N values of one section, S blocks of `block` values (the last may be shorter).
"""

from typing import Literal, get_args

import numpy as np

from fedllm_app.core.errors import WireError

ValueType = Literal["fp32", "fp16", "bf16", "int8"]
VALUE_TYPES: tuple[str, ...] = get_args(ValueType)
VALUE_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
LARGEST = {
    "fp32": float(np.finfo(np.float32).max),
    "fp16": 65504.0,
    "bf16": float(np.uint32(0x7F7F0000).view(np.float32)),
    "int8": float(np.uint32(0x7F7F0000).view(np.float32)),
}
_LEVELS = np.float32(127)
# Subnormal scales lose the precision that makes int8 unbiased, and some machines flush them.
_SMALLEST_SCALE = np.finfo(np.float32).smallest_normal
# 127 times it is still finite, and no block within LARGEST has a larger one.
_LARGEST_SCALE = 2.67e36
_CODES: dict[str, type[np.unsignedinteger]] = {
    "fp32": np.uint32,
    "fp16": np.uint16,
    "bf16": np.uint16,
    "int8": np.uint8,
}
_NOT_SENT = {"fp32": 0xFFFFFFFF, "fp16": 0xFFFF, "bf16": 0xFFFF, "int8": 0x80}


def value_bytes(N: int, value_type: str, block: int) -> int:
    """Return the length of a section of N values, the scales of int8 included."""
    scales = 4 * -(-N // block) if value_type == "int8" else 0
    return N * VALUE_BYTES[value_type] + scales


def pack_values(
    values_N: np.ndarray,
    value_type: str,
    block: int,
    rng: np.random.Generator | None,
    out: np.ndarray,
) -> None:
    """Write the values into `out`, uint8 of shape (value_bytes(N, value_type, block),).

    Parameters
    ----------
    values_N : float32 array of shape (N,)
    block : values that share a scale (int8 only).
    rng : draws the rounding of int8; the others ignore it.

    Raises
    ------
    WireError
        If a value is not finite or too large for the type, or if int8 is given no rng.
    """
    if values_N.size == 0:
        return
    _check_range(values_N, value_type)
    if value_type == "int8":
        if rng is None:
            raise WireError("int8 values need a random generator for their rounding; got None")
        _quantize(values_N, block, rng, out)
    elif value_type == "fp32":
        out[:] = np.ascontiguousarray(values_N, dtype="<f4").view(np.uint8)
    elif value_type == "fp16":
        out[:] = values_N.astype("<f2").view(np.uint8)
    else:
        bits_N = np.ascontiguousarray(values_N).view(np.uint32)
        rounded_N = bits_N >> np.uint32(16)
        rounded_N &= np.uint32(1)
        rounded_N += bits_N
        rounded_N += np.uint32(0x7FFF)
        rounded_N >>= np.uint32(16)
        out[:] = rounded_N.astype("<u2").view(np.uint8)


def unpack_values(data: np.ndarray, N: int, value_type: str, block: int) -> np.ndarray:
    """Return the float32 values of a section in which every coordinate is sent.

    Raises
    ------
    WireError
        If a value is not finite, or is the code of a coordinate not sent.
    """
    return _unpack(data, N, value_type, block, None)


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

    `out` is uint8 of shape (value_bytes(P, value_type, block),); errors as `pack_values`.
    """
    dense_P = np.zeros(P, dtype=np.float32)
    dense_P[positions_K] = values_K
    pack_values(dense_P, value_type, block, rng, out)
    absent_P = np.ones(P, dtype=np.bool_)
    absent_P[positions_K] = False
    codes_P = out[-P * VALUE_BYTES[value_type] :].reshape(P, -1)
    codes_P[absent_P] = np.array([_NOT_SENT[value_type]], dtype="<u4").view(np.uint8)[
        : VALUE_BYTES[value_type]
    ]


def unpack_marked(
    data: np.ndarray, P: int, value_type: str, block: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (int64 positions, float32 values) of the coordinates that were sent.

    Raises
    ------
    WireError
        If a value that was sent is not finite.
    """
    codes_P = _codes(data, P, value_type)
    positions_K = np.flatnonzero(codes_P != _NOT_SENT[value_type]).astype(np.int64, copy=False)
    return positions_K, _unpack(data, P, value_type, block, positions_K)


def _codes(data: np.ndarray, N: int, value_type: str) -> np.ndarray:
    """Return the N codes after any scales, as unsigned integers, without a copy."""
    dtype = np.dtype(_CODES[value_type]).newbyteorder("<")
    return data[data.size - N * dtype.itemsize :].view(dtype)


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
    data: np.ndarray, N: int, value_type: str, block: int, chosen: np.ndarray | None
) -> np.ndarray:
    """Return the finite float32 values of a section, all or those at the chosen indices."""
    codes_N = _codes(data, N, value_type)
    if value_type == "int8":
        return _dequantize(data, codes_N, block, chosen)
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


def _quantize(values_N: np.ndarray, block: int, rng: np.random.Generator, out: np.ndarray) -> None:
    N, S = values_N.size, -(-values_N.size // block)
    blocks = np.zeros((S, block), dtype=np.float32)
    blocks.ravel()[:N] = values_N
    scale_S = np.maximum(blocks.max(axis=1), -blocks.min(axis=1)) / _LEVELS
    scale_S[scale_S < _SMALLEST_SCALE] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        blocks /= scale_S[:, None]
    blocks[scale_S == 0] = 0
    # Up with the probability of the fraction, which is exact: whole numbers are never moved.
    low = np.floor(blocks)
    blocks -= low
    flat = low.ravel()[:N]
    flat += rng.random(N, dtype=np.float32) < blocks.ravel()[:N]
    np.clip(flat, -_LEVELS, _LEVELS, out=flat)
    out[: 4 * S] = scale_S.astype("<f4", copy=False).view(np.uint8)
    out[4 * S :] = flat.astype(np.int8).view(np.uint8)


def _dequantize(
    data: np.ndarray, codes_N: np.ndarray, block: int, chosen: np.ndarray | None
) -> np.ndarray:
    scale_S = data[: data.size - codes_N.size].view("<f4").astype(np.float32)
    if scale_S.size and not (scale_S.min() >= 0 and float(scale_S.max()) <= _LARGEST_SCALE):
        raise WireError(
            f"a scale is negative, too large or not finite; expected 0 to {_LARGEST_SCALE}",
            "non-finite",
        )
    if chosen is not None:
        values_K: np.ndarray = codes_N[chosen].view(np.int8).astype(np.float32)
        values_K *= scale_S[chosen // block]
        return values_K
    if codes_N.size and bool((codes_N == _NOT_SENT["int8"]).any()):
        raise WireError("a value is -128, which means not sent; expected -127 to 127")
    values_N = codes_N.view(np.int8).astype(np.float32)
    whole = values_N.size - values_N.size % block
    values_N[:whole].reshape(-1, block)[...] *= scale_S[: whole // block, None]
    values_N[whole:] *= scale_S[whole // block :]
    return values_N
