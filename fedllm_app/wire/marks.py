"""Many positions as one bit for each coordinate, a sixty-fourth of what a list of all takes.

A reply is decoded into this, whatever it was sent as, so that bytes from a client never become 8
bytes for each coordinate. Positions are read off it block by block.

Shapes: P coordinates, K of them marked.
"""

from functools import cached_property

import numpy as np

from fedllm_app.core.region import Where
from fedllm_app.wire.blocks import BLOCK

FEW = 64  # of so many coordinates, one may be in a list without its taking more than the bits


class Marks:
    """A set of coordinates.

    Parameters
    ----------
    bits : uint8 of shape (P / 8 rounded up,), lowest bit of a byte first; the rest of the last byte
        is zero.
    """

    def __init__(self, bits: np.ndarray) -> None:
        self.bits = bits

    @classmethod
    def of(cls, flat_P: np.ndarray) -> "Marks":
        """Return the set of a bool array of shape (P,)."""
        return cls(np.packbits(flat_P, bitorder="little"))

    @cached_property
    def _before(self) -> np.ndarray:
        """Number of marks before each block of coordinates, and of all."""
        step = BLOCK // 8
        counts = [
            int(np.bitwise_count(self.bits[at : at + step]).sum(dtype=np.int64))
            for at in range(0, self.bits.size, step)
        ]
        return np.append(0, np.cumsum(counts, dtype=np.int64))

    @property
    def size(self) -> int:
        """Number K of coordinates."""
        return int(self._before[-1])

    def part(self, span: slice) -> np.ndarray:
        """Return the positions number `span.start` to `span.stop`, int64, ascending."""
        begin, end = span.start, min(span.stop, self.size)
        if begin >= end:
            return np.zeros(0, dtype=np.int64)
        first = int(np.searchsorted(self._before, begin, side="right")) - 1
        last = int(np.searchsorted(self._before, end, side="left"))
        found = [self._block(i) for i in range(first, last)]
        at = begin - int(self._before[first])
        return np.concatenate(found)[at : at + end - begin]

    def positions(self) -> np.ndarray:
        """Return all positions, int64 of shape (K,), ascending."""
        found = np.empty(self.size, dtype=np.int64)
        for i, begin in enumerate(self._before[:-1].tolist()):
            block = self._block(i)
            found[begin : begin + block.size] = block
        return found

    def _block(self, i: int) -> np.ndarray:
        data = self.bits[i * BLOCK // 8 : (i + 1) * BLOCK // 8]
        found = np.flatnonzero(np.unpackbits(data, bitorder="little").view(np.bool_))
        found += i * BLOCK
        return found.astype(np.int64, copy=False)


Sent = Where | Marks


def listed(where: Sent) -> Where:
    """Return a set with its marks as int64 positions, which take 8 bytes each."""
    return where.positions() if isinstance(where, Marks) else where


def mask_of(where: Sent, P: int) -> np.ndarray:
    """Return a set as a bool array of shape (P,)."""
    if where is None:
        return np.ones(P, dtype=np.bool_)
    if isinstance(where, Marks):
        return np.unpackbits(where.bits, count=P, bitorder="little").view(np.bool_)
    flat_P = np.zeros(P, dtype=np.bool_)
    if isinstance(where, np.ndarray):
        flat_P[where] = True
    else:
        for view in where.views(flat_P):
            view[...] = True
    return flat_P
