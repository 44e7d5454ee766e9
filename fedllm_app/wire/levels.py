"""Few levels for many values: codes of 3 to 8 bits, rounded at random so that means are right.

Two placements of the levels. **Linear** (int8, int4): the uniform quantizer of QSGD (Alistarh et
al. 2017, section 3.1), a scale per block, its largest magnitude the last level. **Table** (q4, q3):
one table of magnitudes per section, from the smallest to the largest there is, in between
geometric: of a few such tables the one of least expected error. Changes of LoRA entries differ
by powers of ten between tensors, so that a scale must be paid for often and a table only once.
Both round up with the probability of the distance: a value's mean over draws is the value.

A code of its own, which no value takes, marks a coordinate not sent. A table needs it only where
something is not sent, and then has one level fewer.

Shapes: N values of one section, S blocks of `block` values (the last may be shorter), L levels.
"""

import numpy as np

from fedllm_app.core.errors import WireError

BITS = {"int8": 8, "int4": 4, "q4": 4, "q3": 3}
NOT_SENT = {"int8": 0x80, "int4": 0x8, "q4": 14, "q3": 6}
TABLE = ("q4", "q3")
SAMPLE, STARTS = 4096, 24  # values that a table is chosen by, and tables there are to choose from
# Subnormal scales lose the precision that makes rounding unbiased, and some machines flush them.
_SMALLEST_SCALE = np.finfo(np.float32).smallest_normal
# 127 times it is still finite, and no block within the largest value has a larger one.
_LARGEST_SCALE = {"int8": 2.67e36, "int4": 4.85e37}
_LARGEST_LEVEL = float(np.uint32(0x7F7F0000).view(np.float32))


def levels_of(value_type: str, marked: bool = False) -> int:
    """Return L, the levels on either side of zero, where some values are marked or none is."""
    most: int = 1 << BITS[value_type] - 1
    return most - (1 if marked or value_type not in TABLE else 0)


def head_bytes(N: int, value_type: str, block: int, marked: bool = False) -> int:
    """Return the length of what stands before the codes: scales, or the table of levels."""
    if value_type in TABLE:
        return 4 * levels_of(value_type, marked) if N else 0
    return 4 * -(-N // block)


def quantize(
    values_N: np.ndarray,
    value_type: str,
    block: int,
    rng: np.random.Generator,
    absent_N: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (scales or levels in float32, codes in uint8 of shape (N,)).

    Parameters
    ----------
    absent_N : values that are not sent, marked as such; None if all are.
    """
    L = levels_of(value_type, absent_N is not None)
    if value_type in TABLE:
        size_N = np.abs(values_N)
        head = table_for(size_N if absent_N is None else size_N[~absent_N], L)
        codes_N = _on_levels(values_N, size_N, head, rng)
    else:
        head, codes_N = _linear(values_N, L, block, rng)
        codes_N &= np.uint8((1 << BITS[value_type]) - 1)
    if absent_N is not None:
        codes_N[absent_N] = NOT_SENT[value_type]
    return head, codes_N


def dequantize(
    head: np.ndarray, codes_N: np.ndarray, value_type: str, block: int, chosen: np.ndarray | None
) -> np.ndarray:
    """Return float32 values of the codes, all or, where some are marked, those at the indices.

    Raises
    ------
    WireError
        If a scale, level or code is one that no encoder writes.
    """
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
    """Return codes of 8, 4 or 3 bits as a stream, lowest bit first; the rest of a byte is zero."""
    if bits == 8:
        return codes_N
    if bits == 4:
        pairs = np.zeros(codes_N.size + codes_N.size % 2, dtype=np.uint8)
        pairs[: codes_N.size] = codes_N
        return pairs[0::2] | pairs[1::2] << 4
    rows = np.empty((codes_N.size, bits), dtype=np.uint8)
    for bit in range(bits):
        rows[:, bit] = codes_N >> bit & 1
    return np.packbits(rows, bitorder="little")


def unpack_codes(data: np.ndarray, N: int, bits: int) -> np.ndarray:
    """Return the N codes of a stream, uint8; a view where they are whole bytes.

    Raises
    ------
    WireError
        If bits after the last code are set.
    """
    if bits == 8:
        return data
    if bits == 4:
        both = np.empty((data.size, 2), dtype=np.uint8)
        both[:, 0], both[:, 1] = data & 15, data >> 4
        codes, rest = both.ravel()[:N], both.ravel()[N:]
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
    values_N: np.ndarray, most: int, block: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    N, S = values_N.size, -(-values_N.size // block)
    blocks = np.zeros((S, block), dtype=np.float32)
    blocks.ravel()[:N] = values_N
    scale_S = np.maximum(blocks.max(axis=1), -blocks.min(axis=1)) / np.float32(most)
    scale_S[scale_S < _SMALLEST_SCALE] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        blocks /= scale_S[:, None]
    blocks[scale_S == 0] = 0
    # Up with the probability of the fraction, which is exact: whole numbers are never moved.
    low = np.floor(blocks)
    blocks -= low
    flat = low.ravel()[:N]
    flat += rng.random(N, dtype=np.float32) < blocks.ravel()[:N]
    np.clip(flat, -most, most, out=flat)
    return scale_S, flat.astype(np.int8).view(np.uint8)


def table_for(size: np.ndarray, L: int) -> np.ndarray:
    """Return L ascending levels for magnitudes, the smallest and the largest among them.

    Candidates begin at the smallest and go on geometrically, from there or from some part of the
    largest; the one of least expected error over a sample is taken. The largest are all in it:
    a few of them can outweigh all others.
    """
    level_L = np.zeros(L, dtype=np.float32)
    if not size.size:
        return level_L
    least, most = size.min(), size.max()
    seen, weight = _sample(size)
    best, starts = np.inf, float(most) * 0.5 ** np.arange(1, STARTS)
    for second in (None, *starts[starts > least]):
        if second is None and not least:
            continue
        table = np.empty(L, dtype=np.float32)
        if second is None:
            table[:] = np.geomspace(least, most, L)
        else:
            table[1:] = np.geomspace(second, most, L - 1)
        table[0], table[-1] = least, most
        low = _below(seen, table)
        above = table[np.minimum(low + 1, L - 1)]
        error = float(np.dot((seen - table[low]) * weight, above - seen))
        if error < best:
            best, level_L = error, table
    return level_L if np.isfinite(best) else np.full(L, most, dtype=np.float32)


def _sample(size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return some magnitudes and how many each stands for: the largest all, of the rest a few."""
    rest = size.size - SAMPLE // 2
    if rest <= SAMPLE // 2:
        return size, np.ones(size.size, dtype=np.float32)
    parted = np.partition(size, rest)
    stride = -(-rest // (SAMPLE // 2))
    few = parted[:rest:stride]
    seen = np.concatenate([few, parted[rest:]])
    weight = np.ones(seen.size, dtype=np.float32)
    weight[: few.size] = stride
    return seen, weight


def _below(size: np.ndarray, level_L: np.ndarray) -> np.ndarray:
    """Return for each magnitude the last level that is not above it."""
    return np.clip(np.searchsorted(level_L, size, side="right") - 1, 0, level_L.size - 1)


def _on_levels(
    values_N: np.ndarray, size_N: np.ndarray, level_L: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return codes 0 to L - 1 for the levels, and L to 2 L - 1 for the same below zero."""
    L = level_L.size
    low_N = _below(size_N, level_L)
    gap_L = np.append(np.diff(level_L), np.float32(0))
    with np.errstate(divide="ignore", invalid="ignore"):
        share_N = (size_N - level_L[low_N]) / gap_L[low_N]
    low_N += rng.random(values_N.size, dtype=np.float32) < share_N  # no number is never below
    codes_N: np.ndarray = (np.minimum(low_N, L - 1) + L * (values_N < 0)).astype(np.uint8)
    return codes_N


def _from_levels(level_L: np.ndarray, codes: np.ndarray) -> np.ndarray:
    if not codes.size:
        return np.zeros(0, dtype=np.float32)
    steps = np.diff(level_L, prepend=np.float32(0))
    if not (steps.min() >= 0 and float(level_L[-1]) <= _LARGEST_LEVEL):
        raise WireError(
            f"levels are not ascending from 0 to at most {_LARGEST_LEVEL}; expected magnitudes",
            "non-finite",
        )
    table = np.concatenate([level_L, -level_L])
    if int(codes.max()) >= table.size:
        raise WireError(f"a value is code {int(codes.max())}; expected 0 to {table.size - 1}")
    values: np.ndarray = table[codes]
    return values
