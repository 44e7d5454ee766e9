"""Few levels for many values: codes of 2 to 8 bits, rounded at random so that means are right.

Two placements of the levels. **Linear** (int8, int4): the uniform quantizer of QSGD (Alistarh et
al. 2017, section 3.1), a scale per block, its largest magnitude the last level. **Table** (q4, q3):
one table of magnitudes per section, from the smallest to the largest there is, in between
geometric: of a few such tables the one of least expected error. Changes of LoRA entries differ
by powers of ten between tensors, so that a scale must be paid for often and a table only once.
**Pairs** (q2): two magnitudes for each stretch of values, see pairs.py.
All round up with the probability of the distance: a value's mean over draws is the value. That
is for uploads, which are averaged. A download is averaged over nothing: it is rounded to the
nearest, on a table that is fitted to its values.

A code of its own, which no value takes, marks a coordinate not sent. A table needs it only where
something is not sent, and then has one level fewer.

Shapes: N values of one section, S blocks of `block` values (the last may be shorter), L levels.
"""

import numpy as np

from fedllm_app.core.errors import WireError
from fedllm_app.wire import pairs
from fedllm_app.wire.table import LARGEST_LEVEL, below

BITS = {"int8": 8, "int4": 4, "q4": 4, "q3": 3, "q2": 2}
NOT_SENT = {"int8": 0x80, "int4": 0x8, "q4": 14, "q3": 6, "q2": pairs.NOT_SENT}
TABLE, PAIRS = ("q4", "q3"), "q2"
# Subnormal scales lose the precision that makes rounding unbiased, and some machines flush them.
_SMALLEST_SCALE = np.finfo(np.float32).smallest_normal
# 127 times it is still finite, and no block within the largest value has a larger one.
_LARGEST_SCALE = {"int8": 2.67e36, "int4": 4.85e37}


def levels_of(value_type: str, marked: bool = False) -> int:
    """Return L, the levels on either side of zero, where some values are marked or none is."""
    most: int = 1 << BITS[value_type] - 1
    return most - (1 if marked or value_type not in (*TABLE, PAIRS) else 0)


def stretch_of(value_type: str, block: int) -> int:
    """Return how many values share a scale or a pair; 8, a byte of codes, where all do."""
    if value_type in TABLE:
        return 8
    return pairs.STRETCH if value_type == PAIRS else block


def head_bytes(N: int, value_type: str, block: int, marked: bool = False) -> int:
    """Return the length of what stands before the codes: scales, or the table of levels."""
    if value_type in TABLE:
        return 4 * levels_of(value_type, marked) if N else 0
    each = levels_of(value_type, marked) if value_type == PAIRS else 1
    return 4 * each * -(-N // stretch_of(value_type, block))


def quantize(
    values_N: np.ndarray,
    value_type: str,
    block: int,
    rng: np.random.Generator | None,
    level_L: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (scales in float32, none where there are levels; codes in uint8 of shape (N,)).

    Parameters
    ----------
    rng : draws the rounding; None rounds to the nearest.
    level_L : the table of q4 and q3; empty for int8 and int4.
    """
    if value_type in TABLE:
        return np.zeros(0, dtype=np.float32), _on_levels(values_N, level_L, rng)
    scale_S, codes_N = _linear(values_N, levels_of(value_type), block, rng)
    codes_N &= np.uint8((1 << BITS[value_type]) - 1)
    return scale_S, codes_N


def dequantize(
    head: np.ndarray, codes_N: np.ndarray, value_type: str, block: int, chosen: np.ndarray | None
) -> np.ndarray:
    """Return float32 values of the codes, all or, where some are marked, those at the indices.

    Raises
    ------
    WireError
        If a scale, level or code is one that no encoder writes.
    """
    if value_type == PAIRS:
        return pairs.values_of_pairs(head, codes_N, chosen)
    picked = codes_N if chosen is None else codes_N[chosen]
    if value_type in TABLE:
        return _from_levels(head, picked)
    if bool((picked == NOT_SENT[value_type]).any()):
        raise WireError("a value is the code that means not sent; expected a value")
    if head.size and not (head.min() >= 0 and float(head.max()) <= _LARGEST_SCALE[value_type]):
        raise WireError(
            "a scale is negative, too large or not finite; expected 0 to "
            f"{_LARGEST_SCALE[value_type]}",
            "non-finite",
        )
    spare = 8 - BITS[value_type]
    # The sign bit is moved to the top and back, so that it fills what is above it.
    values: np.ndarray = ((picked << spare).view(np.int8) >> spare).astype(np.float32)
    if chosen is not None:
        values *= head[chosen // block]
        return values
    whole = int(values.size - values.size % block)
    values[:whole].reshape(-1, block)[...] *= head[: whole // block, None]
    values[whole:] *= head[whole // block :]
    return values


def pack_codes(codes_N: np.ndarray, bits: int) -> np.ndarray:
    """Return codes of 8 to 2 bits as a stream, lowest bit first; the rest of a byte is zero."""
    if bits == 8:
        return codes_N
    # Neighbours are moved together in the words that hold 2 of them, 4, or 8.
    word = np.dtype({4: "<u2", 3: "<u8", 2: "<u4"}[bits])
    spare = -codes_N.size % word.itemsize
    if spare:
        codes_N = np.concatenate([codes_N, np.zeros(spare, dtype=np.uint8)])
    words = codes_N.view(word)
    if bits == 4:
        both: np.ndarray = (words | words >> np.uint16(4)).astype(np.uint8)
        return both
    if bits == 2:
        words = (words | words >> np.uint32(6)) & np.uint32(0x000F000F)
        four: np.ndarray = (words | words >> np.uint32(12)).astype(np.uint8)
        return four
    for move, kept in ((5, 0x003F003F003F003F), (10, 0x00000FFF00000FFF), (20, 0xFFFFFF)):
        words = (words | words >> np.uint64(move)) & np.uint64(kept)
    stream = words.astype("<u8", copy=False).view(np.uint8).reshape(-1, 8)[:, :3].reshape(-1)
    return stream[: stream.size - spare * 3 // 8]


def unpack_codes(data: np.ndarray, N: int, bits: int) -> np.ndarray:
    """Return the N codes of a stream, uint8; a view where they are whole bytes.

    Raises
    ------
    WireError
        If bits after the last code are set.
    """
    if bits == 8:
        return data
    if bits in (4, 2):
        several = np.empty((data.size, 8 // bits), dtype=np.uint8)
        for i in range(8 // bits):
            several[:, i] = data >> bits * i & (1 << bits) - 1
        codes, rest = several.ravel()[:N], several.ravel()[N:]
    else:
        stream = np.unpackbits(data, bitorder="little")
        rows, rest = stream[: N * bits].reshape(N, bits), stream[N * bits :]
        codes = np.zeros(N, dtype=np.uint8)
        for bit in range(bits):
            codes |= rows[:, bit] << bit
    if rest.any():
        raise WireError("padding bits after the values are set; expected zeros")
    return codes


def _linear(
    values_N: np.ndarray, most: int, block: int, rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    N, S = values_N.size, -(-values_N.size // block)
    flat = np.zeros(S * block, dtype=np.float32)
    flat[:N] = values_N
    blocks = flat.reshape(S, block)
    scale_S = np.maximum(blocks.max(axis=1), -blocks.min(axis=1)) / np.float32(most)
    scale_S[scale_S < _SMALLEST_SCALE] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        blocks /= scale_S[:, None]
    blocks[scale_S == 0] = 0
    if rng is None:
        low_N = np.rint(flat[:N])
    else:
        # Up with the probability of the fraction, which is exact: whole numbers are never moved.
        low_N = np.floor(flat[:N])
        flat[:N] -= low_N
        low_N += rng.random(N, dtype=np.float32) < flat[:N]
    np.clip(low_N, -most, most, out=low_N)
    return scale_S, low_N.astype(np.int8).view(np.uint8)


def _on_levels(
    values_N: np.ndarray, level_L: np.ndarray, rng: np.random.Generator | None
) -> np.ndarray:
    """Return codes 0 to L - 1 for the levels, and L to 2 L - 1 for the same below zero."""
    size_N = np.abs(values_N)
    low_N = below(size_N, level_L)
    gap_L = np.append(np.diff(level_L), np.float32(0))
    with np.errstate(divide="ignore", invalid="ignore"):
        share_N = (size_N - level_L[low_N]) / gap_L[low_N]
    # The last level has nothing above it: a share there is no number, or would be infinite.
    share_N[low_N == level_L.size - 1] = 0
    limit = np.float32(0.5) if rng is None else rng.random(values_N.size, dtype=np.float32)
    low_N += (limit < share_N).view(np.uint8)
    low_N += (values_N < 0).view(np.uint8) * np.uint8(level_L.size)
    return low_N


def _from_levels(level_L: np.ndarray, codes: np.ndarray) -> np.ndarray:
    if not codes.size:
        return np.zeros(0, dtype=np.float32)
    steps = np.diff(level_L, prepend=np.float32(0))
    if not (steps.min() >= 0 and float(level_L[-1]) <= LARGEST_LEVEL):
        raise WireError(
            f"levels are not ascending from 0 to at most {LARGEST_LEVEL}; expected magnitudes",
            "non-finite",
        )
    table = np.concatenate([level_L, -level_L])
    if int(codes.max()) >= table.size:
        raise WireError(f"a value is code {int(codes.max())}; expected 0 to {table.size - 1}")
    values: np.ndarray = table[codes]
    return values
