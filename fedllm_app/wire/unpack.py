"""Bytes as values again, block by block; the bytes may be hostile, and every value is checked.

Shapes: N values of one section, of which all are sent; P coordinates, of which K are.
"""

from collections.abc import Iterator
from functools import cached_property
from math import isfinite, isnan

import numpy as np

from fedllm_app.core.errors import WireError
from fedllm_app.wire import levels
from fedllm_app.wire.blocks import parts
from fedllm_app.wire.marks import Marks
from fedllm_app.wire.quantize import BITS, NOT_SENT, WORD
from fedllm_app.wire.uniform import BITS as UNIFORM
from fedllm_app.wire.uniform import UniformSection


class Values:
    """The values of a section in which every coordinate is sent, decoded as they are asked for.

    Parameters
    ----------
    data : uint8 array of shape (value_bytes(N, value_type, block, stretches=stretches),).
    stretches : of u2 to u16, each of one tensor.

    Attributes
    ----------
    dtype, shape : of the values.

    Raises
    ------
    WireError
        If the stretches are not those of N values.
    """

    dtype = np.dtype(np.float32)

    _section: "_Section | UniformSection"

    def __init__(
        self, data: np.ndarray, N: int, value_type: str, block: int, stretches: int = 0
    ) -> None:
        self.shape = (N,)
        if value_type in UNIFORM:
            self._section = UniformSection(data, N, value_type, stretches)
        else:
            self._section = _Section(data, N, value_type, block, marked=False)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Return the values in order, each block with the slice of 0..N - 1 that it is.

        Raises
        ------
        WireError
            If a value is not finite, or is the code of a coordinate not sent.
        """
        for part in self._section.parts():
            yield part, self._section.values(part, self._section.codes(part), None)

    @cached_property
    def measured(self) -> tuple[float, float]:
        """Return the largest magnitude and the Euclidean norm; see `measure`."""
        return measure(values for _, values in self.blocks())

    @property
    def largest(self) -> float:
        """Return the largest magnitude; whoever has it knows that `blocks` will refuse nothing."""
        return self.measured[0]

    def between(self, start: int, stop: int) -> np.ndarray:
        """Return the values number `start` to `stop`, float32, which were checked before."""
        section = self._section
        whole = max(section.stretch, 8)  # a scale is of a stretch, a byte of up to 8 codes
        begin, end = start - start % whole, min(-(-stop // whole) * whole, section.N)
        part = slice(begin, end)
        values: np.ndarray = section.values(part, section.codes(part), None)
        return values[start - begin : stop - begin]

    def whole(self) -> np.ndarray:
        """Return all values, float32 of shape (N,); fp32 may be a view of the bytes."""
        section = self._section
        if isinstance(section, _Section) and section.value_type == "fp32":
            largest_of(values for _, values in self.blocks())
            return _floats(section.data.view("<u4"), "fp32")
        values_N = np.empty(self.shape, dtype=np.float32)
        for part, values in self.blocks():
            values_N[part] = values
        return values_N


def blocks_of(values: np.ndarray | Values) -> Iterator[tuple[slice, np.ndarray]]:
    """Return values in blocks, each with the slice that it is."""
    if isinstance(values, Values):
        return values.blocks()
    return ((part, values[part]) for part in parts(values.size))


def measured(values: np.ndarray | Values) -> tuple[float, float]:
    """Return the largest magnitude and the Euclidean norm of values."""
    if isinstance(values, Values):
        return values.measured
    return measure(block for _, block in blocks_of(values))


def largest_of(blocks: Iterator[np.ndarray]) -> float:
    """Return the largest magnitude, 0 of none; NaN if there is one."""
    largest = 0.0
    for block in blocks:
        # NaN goes through min and max, so that two passes without a copy find everything.
        own = max(-float(block.min()), float(block.max()))
        if not own <= largest:
            largest = own
        if isnan(own):
            break
    return largest


def measure(blocks: Iterator[np.ndarray]) -> tuple[float, float]:
    """Return the largest magnitude and the Euclidean norm; NaN if there is one."""
    largest = squares = 0.0
    for block in blocks:
        own = largest_of(iter([block])) if block.size else 0.0
        largest = own if not own <= largest else largest
        if isnan(own):
            break
        squares += float(np.square(block, dtype=np.float64).sum())
    return largest, squares**0.5


class Marked(Values):
    """The values of a section in which a code says what is not sent, decoded as they are asked for.

    Parameters
    ----------
    data : uint8 array of shape (value_bytes(P, value_type, block, True),).
    K : how many of the P coordinates are sent.

    Attributes
    ----------
    marks : which they are.

    Raises
    ------
    WireError
        If the number of those that are sent is not K.
    """

    def __init__(self, data: np.ndarray, P: int, K: int, value_type: str, block: int) -> None:
        self.shape = (K,)
        self._section = _Section(data, P, value_type, block, marked=True)
        self._parts = list(self._section.parts())
        bits, counts = np.zeros(-(-P // 8), dtype=np.uint8), []
        for part in self._parts:
            sent = self._section.codes(part) != NOT_SENT[value_type]
            bits[part.start // 8 : -(-part.stop // 8)] = np.packbits(sent, bitorder="little")
            counts.append(int(np.count_nonzero(sent)))
        if sum(counts) != K:
            raise WireError(f"{sum(counts)} values are marked as sent; expected K={K}")
        self.marks, self._ends = Marks(bits), np.cumsum(counts)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Return the values that are sent, in order, each block with the slice of 0..K - 1.

        Raises
        ------
        WireError
            If one is not finite.
        """
        for i in range(len(self._parts)):
            values = self._block(i)
            if values.size:
                yield slice(int(self._ends[i]) - values.size, int(self._ends[i])), values

    def between(self, start: int, stop: int) -> np.ndarray:
        """Return the values number `start` to `stop`, float32, which were checked before."""
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._ends, stop, side="left"))
        found = np.concatenate([self._block(i) for i in range(first, last + 1)])
        begin = start - int(self._ends[first - 1] if first else 0)
        return found[begin : begin + stop - start]

    def whole(self) -> np.ndarray:
        """Return all values, float32 of shape (K,)."""
        values_K = np.empty(self.shape, dtype=np.float32)
        for part, values in self.blocks():
            values_K[part] = values
        return values_K

    def _block(self, i: int) -> np.ndarray:
        part = self._parts[i]
        codes = self._section.codes(part)
        sent = np.flatnonzero(codes != NOT_SENT[self._section.value_type])
        return self._section.values(part, codes, sent)


class _Section:
    """Scales or levels, and codes, of N coordinates."""

    def __init__(self, data: np.ndarray, N: int, value_type: str, block: int, marked: bool) -> None:
        self.N, self.value_type, self.block = N, value_type, block
        self.few, self.marked = value_type in levels.BITS, marked
        self.stretch = levels.stretch_of(value_type, block)
        size = levels.head_bytes(N, value_type, block, marked) if self.few else 0
        self.head, self.data = data[:size].view("<f4"), data[size:]

    def parts(self) -> Iterator[slice]:
        return parts(self.N, max(self.stretch, 8))

    def codes(self, part: slice) -> np.ndarray:
        """Return one part of the codes, as unsigned integers."""
        if not self.few:
            word = np.dtype(WORD[self.value_type]).newbyteorder("<")
            return self.data.view(word)[part]
        bits = BITS[self.value_type]
        data = self.data[part.start * bits // 8 : -(-part.stop * bits // 8)]
        return levels.unpack_codes(data, part.stop - part.start, bits)

    def values(self, part: slice, codes: np.ndarray, chosen: np.ndarray | None) -> np.ndarray:
        """Return the finite values of a part's codes, all or those at the chosen indices."""
        if self.few:
            head = self._head(part.start, codes.size).astype(np.float32)
            return levels.dequantize(head, codes, self.value_type, self.block, chosen)
        values = _floats(codes if chosen is None else codes[chosen], self.value_type)
        if values.size and not isfinite(largest_of(iter([values]))):
            raise WireError(
                "a value is NaN, infinite, or marked as not sent; expected finite values",
                "non-finite",
            )
        return values

    def _head(self, start: int, count: int) -> np.ndarray:
        """Return the scales of a part's stretches, a pair for each, or the table of all."""
        if self.value_type in levels.TABLE:
            return self.head
        rows = slice(start // self.stretch, -(-(start + count) // self.stretch))
        if self.value_type != levels.PAIRS:
            return self.head[rows]
        each = levels.levels_of(self.value_type, self.marked)
        return self.head.reshape(-1, each)[rows]


def _floats(words: np.ndarray, value_type: str) -> np.ndarray:
    """Return words as the floats that they are; fp32 may be a view."""
    if value_type == "bf16":
        return (words.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if value_type == "fp16":
        return words.view("<f2").astype(np.float32)
    return words.view("<f4").astype(np.float32, copy=not words.flags.aligned)
