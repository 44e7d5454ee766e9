"""Positions by slice: how many lie in each rank of each tensor, then where, slice by slice.

What training changes most is not spread evenly: ranks, rows and tensors differ in density by
powers of ten. Counts say so at a few bits a slice, and every slice is then coded for its own
density: not at all where it is empty or full, as a bitmap where it is dense, by the gaps between
its positions in a Rice code where it is sparse. Real changes of LoRA adapters take 0.4 to 0.7 of
the entropy of their density; a support that is spread evenly is shorter without this.

Shapes: P flat trainable parameters, K positions, S slices, T tensors.
"""

import numpy as np

from fedllm_app.core.errors import WireError
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


def decode_sliced(data: np.ndarray, slices: Slices, P: int, K: int) -> np.ndarray:
    """Return the int64 positions of a section.

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
    whole = _run_through(np.flatnonzero(count_S == slices.lengths), slices.lengths)
    mapped = _run_through(np.flatnonzero(is_map_S), slices.lengths)
    set_M = np.flatnonzero(stream.take(mapped[0].size))
    slice_R = np.repeat(np.flatnonzero(is_rice_S), count_S[is_rice_S])
    k_R = k_S.astype(np.uint8)[slice_R]
    offset_R = stream.unary(k_R.size)
    if bool((offset_R > np.int64(P) >> k_R).any()):
        raise WireError("a gap is longer than all coordinates together")
    offset_R <<= k_R
    offset_R |= stream.planes(k_R)
    stream.end()
    # Within a slice, position i is i plus the gaps up to it.
    offset_R += 1
    np.cumsum(offset_R, out=offset_R)
    counts_R = count_S[is_rice_S]
    before = np.append(0, offset_R)[np.cumsum(counts_R) - counts_R]
    offset_R -= np.repeat(before, counts_R)
    offset_R -= 1
    if bool((offset_R >= slices.lengths[slice_R]).any()):
        raise WireError("a position lies beyond its slice")
    slice_K = np.concatenate([slice_R, whole[0], mapped[0][set_M]])
    if slice_K.size != K:
        raise WireError(f"the bitmaps of slices hold {slice_K.size - K} positions too many")
    offset_K = np.concatenate([offset_R, whole[1], mapped[1][set_M]])
    del slice_R, offset_R, k_R, whole, mapped, set_M
    return _ascending(slices.flat(slice_K, offset_K), P)


def _ascending(positions: np.ndarray, P: int) -> np.ndarray:
    """Return distinct positions below P in order: few are sorted, many are read off a mask."""
    if positions.size < P >> 6:
        return np.sort(positions)
    mask_P = np.zeros(P, dtype=np.bool_)
    mask_P[positions] = True
    return np.flatnonzero(mask_P)


def _run_through(chosen: np.ndarray, length_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the slice and the place in it of every coordinate of the chosen slices."""
    lengths = length_S[chosen]
    offset = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(chosen, lengths), offset


def _coding(count_S: np.ndarray, length_S: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the Rice parameter of each slice, and which are in a Rice code and which bitmaps."""
    free_S = length_S - count_S
    some_S = (count_S > 0) & (free_S > 0)
    # What a Rice code with parameter k takes at most; the first of the smallest is taken.
    most = np.array([count_S * (k + 1) + (free_S >> k) for k in range(MOST_K + 1)])
    k_S: np.ndarray = np.argmin(most, axis=0)
    is_map_S = some_S & (most[k_S, np.arange(k_S.size)] >= length_S)
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
        self._bits = np.unpackbits(data, bitorder="little").view(np.bool_)
        self._at = 0

    def take(self, count: int) -> np.ndarray:
        """Return the next bits."""
        if count > self._bits.size - self._at:
            raise WireError(f"a section of {self._bits.size // 8} bytes ends too early")
        self._at += count
        return self._bits[self._at - count : self._at]

    def unary(self, count: int) -> np.ndarray:
        """Return the next numbers written by `_unary`."""
        ends = np.flatnonzero(self._bits[self._at :])[:count]
        if ends.size < count:
            raise WireError(f"a section holds {ends.size} numbers; expected {count}")
        self._at += int(ends[-1]) + 1 if count else 0
        numbers: np.ndarray = np.diff(ends, prepend=-1) - 1
        return numbers

    def planes(self, width: np.ndarray) -> np.ndarray:
        """Return the next numbers written by `_planes`."""
        numbers = np.zeros(width.size, dtype=np.int64)
        for bit in range(width.max(initial=0)):
            wide = width > bit
            numbers[wide] |= self.take(int(np.count_nonzero(wide))).astype(np.int64) << bit
        return numbers

    def end(self) -> None:
        """Refuse anything but the padding of the last byte."""
        rest = self._bits[self._at :]
        if rest.size > 7 or rest.any():
            raise WireError("bytes or set padding bits follow the positions")
