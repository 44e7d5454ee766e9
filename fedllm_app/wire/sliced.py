"""Positions by slice: how many lie in each rank of each tensor, then where, slice by slice.

What training changes most is not spread evenly: ranks, rows and tensors differ in density by
powers of ten. Counts say so at a few bits a slice, and every slice is then coded for its own
density: not at all where it is empty or full, as a bitmap where it is dense, by the gaps between
its positions in a Rice code where it is sparse. Real changes of LoRA adapters take 0.4 to 0.7 of
the entropy of their density; a support that is spread evenly is shorter without this.

Shapes: P flat trainable parameters, K positions, S slices, T tensors.
"""

from collections.abc import Callable

import numpy as np

from fedllm_app.core.errors import WireError
from fedllm_app.wire.blocks import BLOCK, parts
from fedllm_app.wire.marks import Marks
from fedllm_app.wire.slices import Slices

PARAMETER_BITS = 4
MOST_K = 31


def encode_sliced(positions: np.ndarray, slices: Slices, P: int, below: int) -> np.ndarray | None:
    """Return the bytes of ascending positions below P; None if they are not fewer than `below`."""
    flat_P = np.zeros(P, dtype=np.bool_)
    flat_P[positions] = True
    mask_P = slices.reorder(flat_P)
    del flat_P
    found_K = np.flatnonzero(mask_P)
    edges = np.append(slices.starts, P)
    count_S = np.diff(np.searchsorted(found_K, edges))
    k_S, is_rice_S, is_map_S = _coding(count_S, slices.lengths)
    parameter_T = _parameters(count_S, slices.tensor)
    own_S = parameter_T[slices.tensor]
    # Without the quotients of gaps it takes at least this; where it is too much, it ends here.
    least = parameter_T.size * PARAMETER_BITS + int(((count_S >> own_S) + 1 + own_S).sum())
    least += int(slices.lengths[is_map_S].sum() + (count_S * (k_S + 1))[is_rice_S].sum())
    if -(-least // 8) >= below:
        return None
    # A gap is counted from the position before, or from the beginning of the slice.
    gap_K = np.diff(found_K, prepend=-1)
    gap_K -= 1
    some_S = count_S > 0
    first = (np.cumsum(count_S) - count_S)[some_S]
    gap_K[first] = found_K[first] - slices.starts[some_S]
    del found_K
    gap_R = gap_K[np.repeat(is_rice_S, count_S)]
    k_R = np.repeat(k_S.astype(np.uint8), np.where(is_rice_S, count_S, 0))
    del gap_K
    parts = [
        _planes(parameter_T, np.full(parameter_T.size, PARAMETER_BITS)),
        _unary(count_S >> own_S),
        _planes(count_S, own_S),
        mask_P[np.repeat(is_map_S, slices.lengths)],
        _unary(gap_R >> k_R),
        _planes(gap_R, k_R),
    ]
    section = np.packbits(np.concatenate(parts), bitorder="little")
    return section if section.size < below else None


def decode_sliced(data: np.ndarray, slices: Slices, P: int, K: int) -> Marks:
    """Return the positions of a section; beside it this takes 2 P bytes, and some for each slice.

    Raises
    ------
    WireError
        If it is not what an encoder writes for K positions below P.
    """
    stream, T, S = _Stream(data), int(slices.tensor[-1]) + 1, slices.lengths.size
    parameter_T = stream.planes(np.full(T, PARAMETER_BITS))
    own_S = parameter_T[slices.tensor]
    count_S = (stream.unary(S) << own_S) | stream.planes(own_S)
    if int(count_S.sum()) != K or bool((count_S > slices.lengths).any()):
        raise WireError(f"the counts of {S} slices do not fit them, or do not sum to K={K}")
    k_S, is_rice_S, is_map_S = _coding(count_S, slices.lengths)
    mask_P = np.zeros(P, dtype=np.bool_)
    _mark(mask_P, slices, np.flatnonzero(count_S == slices.lengths), None)
    _mark(mask_P, slices, np.flatnonzero(is_map_S), stream)
    chosen = np.flatnonzero(is_rice_S)
    _mark_gaps(mask_P, slices, chosen, count_S[chosen], k_S[chosen], stream)
    stream.end()
    marks = Marks.of(mask_P)
    if marks.size != K:
        raise WireError(f"slices hold {marks.size} positions; their counts say {K}")
    return marks


def _mark(mask_P: np.ndarray, slices: Slices, chosen: np.ndarray, stream: "_Stream | None") -> None:
    """Mark the chosen slices: whole, or as the next bits of a stream say."""
    lengths, first = slices.lengths[chosen], slices.first[chosen]
    ends, at = np.cumsum(lengths), 0
    while at < chosen.size:
        # As many slices as are a block together, or a longer one by itself.
        done = int(ends[at - 1]) if at else 0
        stop = max(at + 1, int(np.searchsorted(ends, done + BLOCK, side="right")))
        total = int(ends[stop - 1]) - done
        bits = True if stream is None else stream.take(total)
        if stop == at + 1:
            begin, step, length = int(first[at]), int(slices.step[chosen[at]]), int(lengths[at])
            mask_P[begin : begin + step * (length - 1) + 1 : step] = bits
        else:
            some = lengths[at:stop]
            offset = np.arange(total) - np.repeat(np.cumsum(some) - some, some)
            mask_P[slices.flat(np.repeat(chosen[at:stop], some), offset)] = bits
        at = stop


def _mark_gaps(
    mask_P: np.ndarray,
    slices: Slices,
    chosen: np.ndarray,
    counts: np.ndarray,
    k: np.ndarray,
    stream: "_Stream",
) -> None:
    """Mark the positions of the chosen slices, each given by the gap to the one before."""
    ends = np.cumsum(counts)
    R = int(ends[-1]) if ends.size else 0
    quotients, lows = stream.gaps(R), stream.rows(k, counts)
    sums, begin = 0, 0  # of gaps and ones, all and those before the slice that a block begins in
    for part in parts(R):
        order = np.arange(part.start, part.stop)
        which = np.searchsorted(ends, order, side="right")
        gap = quotients(part)
        if bool((gap > np.int64(mask_P.size) >> k[which]).any()):
            raise WireError("a gap is longer than all coordinates together")
        gap = gap << k[which] | lows(k[which])
        # Within a slice, position i is i plus the gaps up to it.
        total = np.cumsum(gap + 1) + sums
        before = np.append(sums, total)[:-1]
        opens = np.flatnonzero(order == (ends - counts)[which])
        base = np.full(order.size, begin)
        if opens.size:
            last = np.searchsorted(opens, np.arange(order.size), side="right") - 1
            base = np.where(last >= 0, before[opens[last]], begin)
        offset = total - base - 1
        if bool((offset >= slices.lengths[chosen[which]]).any()):
            raise WireError("a position lies beyond its slice")
        mask_P[slices.flat(chosen[which], offset)] = True
        sums, begin = int(total[-1]), int(base[-1])


def _coding(count_S: np.ndarray, length_S: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the Rice parameter of each slice, and which are in a Rice code and which bitmaps."""
    free_S = length_S - count_S
    some_S = (count_S > 0) & (free_S > 0)
    # What a Rice code with parameter k takes at most; the first of the smallest is taken.
    k_S, least_S = np.zeros_like(count_S), count_S + free_S
    for k in range(1, MOST_K + 1):
        most_S = count_S * (k + 1) + (free_S >> k)
        better_S = most_S < least_S
        k_S[better_S], least_S[better_S] = k, most_S[better_S]
    is_map_S = some_S & (least_S >= length_S)
    return k_S, some_S & ~is_map_S, is_map_S


def _parameters(count_S: np.ndarray, tensor_S: np.ndarray) -> np.ndarray:
    """Return for each tensor the parameter of its counts that takes the fewest bits."""
    first = np.flatnonzero(np.diff(tensor_S, prepend=-1))
    size_T = np.diff(np.append(first, tensor_S.size))
    bits = [np.add.reduceat(count_S >> k, first) + k * size_T for k in range(1 << PARAMETER_BITS)]
    best: np.ndarray = np.argmin(bits, axis=0)
    return best


def _unary(numbers: np.ndarray) -> np.ndarray:
    """Return for each number as many zeros and a one, as bools."""
    ends = np.cumsum(numbers + 1) - 1
    bits = np.zeros(int(ends[-1]) + 1 if ends.size else 0, dtype=np.bool_)
    bits[ends] = True
    return bits


def _planes(numbers: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Return bit 0 of each number at least 1 wide, then bit 1 of each at least 2 wide, ..."""
    planes = [
        (numbers[width > bit] >> bit & 1).astype(np.bool_) for bit in range(width.max(initial=0))
    ]
    return np.concatenate([np.zeros(0, dtype=np.bool_), *planes])


class _Stream:
    """The bits of a section, read from the front; every read is checked before memory is taken."""

    def __init__(self, data: np.ndarray) -> None:
        self._marks = Marks(data)
        self._bits = np.unpackbits(data, bitorder="little").view(np.bool_)
        self._at = 0

    def take(self, count: int) -> np.ndarray:
        """Return the next bits."""
        if count > self._bits.size - self._at:
            raise WireError(f"a section of {self._bits.size // 8} bytes ends too early")
        self._at += count
        return self._bits[self._at - count : self._at]

    def gaps(self, count: int) -> Callable[[slice], np.ndarray]:
        """Return what reads the next numbers written by `_unary`, one part after the other."""
        start, first = self._at, int(np.count_nonzero(self._bits[: self._at]))
        if self._marks.size - first < count:
            raise WireError(f"a section holds {self._marks.size - first} numbers; expected {count}")
        if count:
            last = slice(first + count - 1, first + count)
            self._at = int(self._marks.part(last)[0]) + 1
        before = start - 1

        def read(part: slice) -> np.ndarray:
            nonlocal before
            ends = self._marks.part(slice(first + part.start, first + part.stop))
            numbers: np.ndarray = np.diff(ends, prepend=before) - 1
            before = int(ends[-1]) if ends.size else before
            return numbers

        return read

    def unary(self, count: int) -> np.ndarray:
        """Return the next numbers written by `_unary`."""
        return self.gaps(count)(slice(0, count))

    def rows(self, widths: np.ndarray, counts: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Return what reads the next numbers written by `_planes`, one part after the other.

        Parameters
        ----------
        widths, counts : how wide numbers are, and how many of that width come in a row.
        """
        planes = [
            self.take(int(counts[widths > bit].sum())) for bit in range(int(widths.max(initial=0)))
        ]
        read_of = [0] * len(planes)

        def read(width: np.ndarray) -> np.ndarray:
            numbers = np.zeros(width.size, dtype=np.int64)
            for bit, plane in enumerate(planes):
                wide = width > bit
                stop = read_of[bit] + int(np.count_nonzero(wide))
                numbers[wide] |= plane[read_of[bit] : stop].astype(np.int64) << bit
                read_of[bit] = stop
            return numbers

        return read

    def planes(self, width: np.ndarray) -> np.ndarray:
        """Return the next numbers written by `_planes`."""
        return self.rows(width, np.ones_like(width))(width)

    def end(self) -> None:
        """Refuse anything but the padding of the last byte."""
        rest = self._bits[self._at :]
        if rest.size > 7 or rest.any():
            raise WireError("bytes or set padding bits follow the positions")
