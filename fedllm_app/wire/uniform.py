"""u2 to u16: 2^b evenly spaced levels from the smallest to the largest value of each tensor.

The stochastic uniform quantizer of cross-device language models (Ro et al. 2022, arXiv 2204.09715;
Suresh et al. 2017, arXiv 1611.00429, section 2.1). A value goes to one of the two levels around it,
to the upper one with the probability of its part of the way, so that its mean over draws is the
value; without a generator it goes to the nearest. What is rebuilt differs by less than one step,
(largest - smallest) / (2^b - 1) of its tensor, or by half of one.

A section says itself which stretches of it are of one tensor: it can be read without the layout.

Shapes: N values of one section, S stretches, each of one tensor.
"""

from collections.abc import Iterator

import numpy as np

from fedllm_app.core.errors import WireError
from fedllm_app.core.region import Region, Where
from fedllm_app.wire.blocks import parts
from fedllm_app.wire.slices import Slices
from fedllm_app.wire.table import LARGEST_LEVEL

BITS = {f"u{bits}": bits for bits in range(2, 17)}
ENTRY = np.dtype([("count", "<u4"), ("low", "<f4"), ("high", "<f4")])
MOST_STRETCHES = (1 << 16) - 1  # the header has two bytes for their number
_MOST_COUNT = (1 << 32) - 1


def head_bytes(stretches: int) -> int:
    """Return the length of what stands before the codes."""
    return stretches * ENTRY.itemsize


def stretches_of(where: Where, slices: Slices | None) -> np.ndarray:
    """Return how many values of a set lie in each tensor that it touches, int64 of shape (S,).

    Parameters
    ----------
    where : the set; None is all.
    slices : how the layout is cut; None takes everything for one tensor.
    """
    if isinstance(where, Region):
        found = np.array([piece.size for piece in where.pieces], np.int64)
    elif slices is None:
        return np.zeros(0, np.int64)
    else:
        edges = _edges(slices)
        found = np.diff(edges if where is None else np.searchsorted(where, edges))
    found = found[found > 0]
    if found.size > MOST_STRETCHES:
        found = np.add.reduceat(found, np.arange(0, found.size, -(-found.size // MOST_STRETCHES)))
    return found


def pack_uniform(
    values_N: np.ndarray,
    bits: int,
    count_S: np.ndarray,
    rng: np.random.Generator | None,
    out: np.ndarray,
) -> None:
    """Write a section into `out`, uint8 of its length.

    Parameters
    ----------
    values_N : float32, all finite.
    bits : of a code, 2 to 16.
    count_S : values of each stretch; they sum to N.
    rng : draws the rounding; None rounds to the nearest.

    Raises
    ------
    WireError
        If a stretch is longer than its count can say.
    """
    if int(count_S.max(initial=0)) > _MOST_COUNT:
        raise WireError(f"a tensor has {count_S.max()} values; u{bits} holds {_MOST_COUNT} of one")
    head = out[: head_bytes(count_S.size)].view(ENTRY)
    starts = np.cumsum(count_S) - count_S
    head["count"] = count_S
    head["low"] = np.minimum.reduceat(values_N, starts)
    head["high"] = np.maximum.reduceat(values_N, starts)
    levels, codes = Levels(head, bits), out[head_bytes(count_S.size) :]
    for part in parts(values_N.size, 8):
        low, step = levels.of(part)
        x = values_N[part] - low
        np.divide(x, step, out=x, where=step > 0)
        below = np.floor(x)
        limit = 0.5 if rng is None else rng.random(x.size, dtype=np.float32)
        below += limit < x - below
        np.clip(below, 0, (1 << bits) - 1, out=below)
        packed = pack(below.astype("<u2"), bits)
        codes[part.start * bits // 8 :][: packed.size] = packed


class Levels:
    """The levels of every value of a section, by its stretch.

    Parameters
    ----------
    head : entries of shape (S,), checked.
    bits : of a code.
    """

    def __init__(self, head: np.ndarray, bits: int) -> None:
        self._ends = np.cumsum(head["count"], dtype=np.int64)
        self._low = head["low"].astype(np.float64)
        self._step = (head["high"].astype(np.float64) - self._low) / ((1 << bits) - 1)

    def of(self, part: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return lowest level and step of each value of a part, float64 of its length."""
        first, last = np.searchsorted(self._ends, (part.start, part.stop - 1), side="right")
        ends = np.minimum(self._ends[first : last + 1], part.stop)
        own = np.diff(ends, prepend=part.start)
        which = slice(first, last + 1)
        return np.repeat(self._low[which], own), np.repeat(self._step[which], own)


class UniformSection:
    """Stretches and codes of N values, whose bytes may be hostile.

    Raises
    ------
    WireError
        If the stretches do not cover the values, or their bounds are not finite and in order.
    """

    stretch = 8  # values whose codes are whole bytes

    def __init__(self, data: np.ndarray, N: int, value_type: str, stretches: int) -> None:
        self.N, self.value_type, self._bits = N, value_type, BITS[value_type]
        size = head_bytes(stretches)
        head, self._data = np.ascontiguousarray(data[:size]).view(ENTRY), data[size:]
        if int(head["count"].sum(dtype=np.int64)) != N or bool((head["count"] == 0).any()):
            raise WireError(f"the stretches of a section do not cover its {N} values")
        fine = (head["low"] >= -LARGEST_LEVEL) & (head["low"] <= head["high"])
        if not bool((fine & (head["high"] <= LARGEST_LEVEL)).all()):  # no number is neither
            raise WireError(
                f"the bounds of a tensor are not ascending within {LARGEST_LEVEL}", "non-finite"
            )
        self._levels = Levels(head, self._bits)

    def parts(self) -> Iterator[slice]:
        """Return the section in parts, each of whole bytes."""
        return parts(self.N, self.stretch)

    def codes(self, part: slice) -> np.ndarray:
        """Return one part of the codes."""
        b = self._bits
        return unpack(self._data[part.start * b // 8 : -(-part.stop * b // 8)], part, b)

    def values(self, part: slice, codes: np.ndarray, chosen: np.ndarray | None) -> np.ndarray:
        """Return the float32 values of a part's codes, all or those at the chosen indices."""
        low, step = self._levels.of(part)
        values: np.ndarray = (low + codes * step).astype(np.float32)
        return values if chosen is None else values[chosen]


def pack(codes_N: np.ndarray, bits: int) -> np.ndarray:
    """Return codes, "<u2", as a stream of bytes, lowest bit first; the rest of a byte is zero."""
    if bits == 16:
        return codes_N.view(np.uint8)
    if bits == 8:
        return codes_N.astype(np.uint8)
    rows = np.unpackbits(codes_N.view(np.uint8).reshape(-1, 2), axis=1, bitorder="little")
    return np.packbits(rows[:, :bits], bitorder="little")


def unpack(data: np.ndarray, part: slice, bits: int) -> np.ndarray:
    """Return the codes of a part from the bytes that hold them, "<u2" or uint8.

    Raises
    ------
    WireError
        If bits after the last code are set.
    """
    if bits == 8:
        return data
    if bits == 16:
        return np.ascontiguousarray(data).view("<u2")
    N, stream = part.stop - part.start, np.unpackbits(data, bitorder="little")
    if stream[N * bits :].any():
        raise WireError("padding bits after the values are set; expected zeros")
    rows = np.zeros((N, 16), np.uint8)
    rows[:, :bits] = stream[: N * bits].reshape(N, bits)
    return np.packbits(rows, axis=1, bitorder="little").reshape(-1).view("<u2")


def _edges(slices: Slices) -> np.ndarray:
    """Return where each tensor begins in the flat order, and where the last one ends."""
    first = np.flatnonzero(np.diff(slices.tensor, prepend=-1))
    starts = np.cumsum(slices.lengths) - slices.lengths
    return np.append(starts[first], slices.lengths.sum())
