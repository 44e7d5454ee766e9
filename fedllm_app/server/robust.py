"""Means that a few wrong replies do not move: trimmed mean and median (Yin et al. 2018).

Both look at each coordinate by itself (arXiv 1803.01498): the trimmed mean leaves out the lowest
and the highest replies, the median all but the middle. They need all replies at once. A reply is
kept as the bytes that it came as, and P / 8 bytes that say which coordinates it has; a block of
coordinates at a time is then decoded from all of them.

Where a reply did not send a coordinate, it counts as a zero by "cohort". By "senders" it does not
count at all: the lowest and highest are left out of those that sent. A coordinate that one client
alone sent is then that client's.

All replies count alike. Values are whole numbers of 2^-44 as in `Mean`, so that a trimmed mean that
trims nothing has the bits of the mean.

Shapes: P trainable parameters, K coordinates of one reply, n replies, B coordinates of a block.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedllm_app.core.errors import ConfigError
from fedllm_app.server.aggregate import STEP, Aggregate, whole_steps
from fedllm_app.wire.marks import Marks, Sent, mask_of
from fedllm_app.wire.unpack import Values

CELLS = 1 << 19  # of the table of n by B values that is in memory at a time
_ABSENT = np.iinfo(np.int64).max  # above every value, so that it is sorted to the end


class Robust(Aggregate):
    """The middle of the replies, coordinate by coordinate.

    Parameters
    ----------
    trim : the share of the replies that is left out at either end, below 1/2; None leaves out all
        but the middle one, or the middle two.
    P, cohort, mean, most_weight : as of an `Aggregate`.
    """

    def __init__(
        self,
        P: int,
        *,
        cohort: int,
        mean: Literal["cohort", "senders"] = "cohort",
        most_weight: int | None = None,
        trim: float | None = None,
    ) -> None:
        super().__init__(P, cohort=cohort, mean=mean, most_weight=most_weight)
        self.trim = trim
        self._kept: list[_Kept] = []

    def _take(
        self, positions: Sent, values_K: np.ndarray | Values, weight: int, scale: float, full: int
    ) -> None:
        if weight < full or weight * self.cohort > self.most_weight:
            raise ConfigError(
                f"a reply has weight {weight}; expected equal weights, since round.aggregate is "
                "not 'mean': set round.weights to 'uniform'"
            )
        self._kept.append(_Kept(_bitmap(positions, self.P), values_K, scale))

    def _combine(self, mean_P: np.ndarray) -> None:
        size = max(8, CELLS // self.n // 8 * 8)  # whole bytes of a bitmap
        absent, begun = _ABSENT if self.by_senders else 0, [0] * self.n
        for start in range(0, self.P, size):
            part = slice(start, min(start + size, self.P))
            table_nB = np.full((self.n, part.stop - start), absent, dtype=np.int64)
            for i, kept in enumerate(self._kept):
                begun[i] += kept.write(table_nB[i], part, begun[i])
            table_nB.sort(axis=0)
            mean_P[part] = self._middle(table_nB)

    def _middle(self, table_nB: np.ndarray) -> np.ndarray:
        """Return the mean of what is left of each column, which is in ascending order."""
        counts_B = (table_nB != _ABSENT).sum(axis=0)
        if self.trim is None:
            cut_B = np.maximum(counts_B - 1, 0) // 2
        else:
            cut_B = np.floor(self.trim * counts_B + 1e-9).astype(np.int64)  # 0.2 of 10 is 2
        row_n = np.arange(self.n)[:, None]
        inside_nB = (row_n >= cut_B) & (row_n < counts_B - cut_B)
        total_B = np.where(inside_nB, table_nB, 0).sum(axis=0)
        mean: np.ndarray = total_B.astype(np.float32) * STEP
        mean /= np.maximum(counts_B - 2 * cut_B, 1).astype(np.float32)
        return mean


@dataclass(frozen=True, eq=False)
class _Kept:
    """One reply: which coordinates it has, one bit each or None for all; its values; its scale."""

    bits: np.ndarray | None
    values: np.ndarray | Values
    scale: float

    def write(self, row_B: np.ndarray, part: slice, begun: int) -> int:
        """Write the values of a part of all P into a row; return how many there are."""
        at: slice | np.ndarray = slice(0, row_B.size)
        count = row_B.size
        if self.bits is not None:
            bits = self.bits[part.start // 8 : -(-part.stop // 8)]
            at = np.flatnonzero(np.unpackbits(bits, count=count, bitorder="little"))
            count = at.size
        if count:
            stop = begun + count
            if isinstance(self.values, Values):
                values = self.values.between(begun, stop)
            else:
                values = self.values[begun:stop]
            row_B[at] = whole_steps(values, self.scale)
        return count


def _bitmap(positions: Sent, P: int) -> np.ndarray | None:
    if positions is None:
        return None
    return positions.bits if isinstance(positions, Marks) else Marks.of(mask_of(positions, P)).bits
