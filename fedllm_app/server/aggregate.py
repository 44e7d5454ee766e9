"""The mean of a round's replies, folded in as they arrive (FLoSS, Raje 2024, Algorithm 1).

Values are summed as whole numbers of 2^-44, so that the sum is exact: replies may come in any
order, from any number of workers, and the bits are the same. Each may have a weight, a whole number
too, and may be scaled down, which is done before it is a whole number. Memory is one int64 per
parameter, however many clients there are.

"Sent a zero" and "not sent" add the same to the sum and differ in the count of senders.

Shapes: P trainable parameters, K coordinates of one reply.
"""

from bisect import bisect_left
from collections.abc import Mapping
from math import gcd, isfinite, sqrt
from typing import Literal

import numpy as np

from fedllm_app.core.errors import ConfigError, WireError
from fedllm_app.wire.blocks import parts
from fedllm_app.wire.marks import Sent
from fedllm_app.wire.positions import check_ascending
from fedllm_app.wire.unpack import Values, blocks_of, measured

STEP_BITS = 44
_STEPS = np.float32(2.0**STEP_BITS)
STEP = np.float32(2.0**-STEP_BITS)
# A total of weights up to this is a whole number in int32 and in float32.
MOST_WEIGHT = 1 << 24
WEIGHTS = 1 << 10


class Aggregate:
    """What replies are combined by, `Mean` or one of `server/robust.py`.

    Parameters
    ----------
    P : trainable parameters.
    cohort : most replies that can come.
    mean : who counts where a coordinate was not sent: "cohort", as a zero; "senders", not at all.
    most_weight : most that the weights of all replies can sum to, at most 2^24; None is `cohort`,
        for replies of weight 1. Magnitudes must stay below 2^19 / most_weight, so that not even the
        sum of all of them leaves int64: 524 at a sum of 1000, 0.5 at one of 2^20.

    Attributes
    ----------
    n, weight : replies folded in so far, and the sum of their weights in full.

    Raises
    ------
    ConfigError
        If most_weight is not from 1 to 2^24.
    """

    def __init__(
        self,
        P: int,
        *,
        cohort: int,
        mean: Literal["cohort", "senders"] = "cohort",
        most_weight: int | None = None,
    ) -> None:
        self.P, self.by_senders = P, mean == "senders"
        self.n = self.weight = 0
        self.cohort = cohort
        self.most_weight = cohort if most_weight is None else most_weight
        if not 1 <= self.most_weight <= MOST_WEIGHT:
            raise ConfigError(f"weights sum to {self.most_weight}; expected 1 to {MOST_WEIGHT}")
        self.limit = 2.0 ** (63 - STEP_BITS) / self.most_weight

    def fold(
        self,
        positions: Sent,
        values_K: np.ndarray | Values,
        weight: int = 1,
        scale: float = 1.0,
        full: int | None = None,
    ) -> None:
        """Add one reply; what is refused leaves the rest as it was.

        Parameters
        ----------
        positions : strictly ascending int64 array of shape (K,), a region, marks, or None for all.
        values_K : float32 array of shape (K,), or the same still coded.
        weight : how many times the reply counts, a whole number from 1.
        scale : what every value is multiplied by, in float32, from 0 to 1.
        full : what it adds to the weight that the sum is divided by, `weight` or more; None is
            `weight`. A reply that is discounted moves the mean less, and not the others more.

        Raises
        ------
        WireError
            If a value is not finite, or its magnitude is 2^19 / most_weight or more, if positions
            do not fit, or if more replies than `cohort` or more weight than `most_weight` come.
        """
        if self.n == self.cohort:
            raise WireError(f"a reply more than the cohort of {self.cohort} came")
        full = weight if full is None else full
        if not 1 <= weight <= full <= self.most_weight - self.weight:
            raise WireError(
                f"a reply has weight {full}; expected 1 to {self.most_weight - self.weight}, "
                f"as all sum to at most {self.most_weight}"
            )
        self.check(positions, values_K)
        self._take(positions, values_K, weight, scale, full)
        self.n += 1
        self.weight += full

    def mean(self) -> np.ndarray:
        """Return the float32 mean of shape (P,), 0 where nobody sent.

        Raises
        ------
        WireError
            If no reply was folded in.
        """
        if self.n == 0:
            raise WireError("no reply was accepted; a mean needs one. See round.min-replies")
        mean_P = np.empty(self.P, dtype=np.float32)
        self._combine(mean_P)
        return mean_P

    def length(self) -> float | None:
        """Return the norm of the weighted sum of all replies, None where there is no sum."""
        return None

    def _take(
        self, positions: Sent, values_K: np.ndarray | Values, weight: int, scale: float, full: int
    ) -> None:
        raise NotImplementedError

    def _combine(self, mean_P: np.ndarray) -> None:
        raise NotImplementedError

    def check(self, positions: Sent, values_K: np.ndarray | Values) -> None:
        """Raise WireError where `fold` would for these positions and values."""
        K = self.P if positions is None else positions.size
        if values_K.dtype != np.float32 or values_K.shape != (K,):
            raise WireError(
                f"values are {values_K.dtype} of shape {values_K.shape}; "
                f"expected float32 of shape {(K,)}"
            )
        largest, _ = measured(values_K)
        if not isfinite(largest):
            raise WireError("a value is NaN or infinite; expected finite values", "non-finite")
        if largest >= self.limit:
            raise WireError(
                f"a value has magnitude {largest!r}; expected below {self.limit!r}, 2^19 / "
                f"{self.most_weight}, the weight of the cohort. A lower client.lr may help"
            )
        if isinstance(positions, np.ndarray) and K:
            if int(positions[0]) < 0 or int(positions[-1]) >= self.P:
                raise WireError(f"positions leave 0..{self.P - 1}")
            check_ascending(positions)


class Mean(Aggregate):
    """A running sum: one int64 per parameter, however many replies come."""

    def __init__(
        self,
        P: int,
        *,
        cohort: int,
        mean: Literal["cohort", "senders"] = "cohort",
        most_weight: int | None = None,
    ) -> None:
        super().__init__(P, cohort=cohort, mean=mean, most_weight=most_weight)
        self._sum_P = np.zeros(P, dtype=np.int64)
        self._senders_P = np.zeros(P, dtype=np.int32) if self.by_senders else None

    def _take(
        self, positions: Sent, values_K: np.ndarray | Values, weight: int, scale: float, full: int
    ) -> None:
        for part, values in blocks_of(values_K):
            steps = whole_steps(values, scale)
            if weight != 1:
                steps *= weight
            self._add(self._at(positions, part), steps, full)

    def length(self) -> float | None:
        """Return the norm of the weighted sum of all replies, before it is divided."""
        total = 0.0
        for part in parts(self.P):
            block = self._sum_P[part] * np.float64(STEP)
            total += float(block @ block)
        return sqrt(total)

    def _combine(self, mean_P: np.ndarray) -> None:
        """Write the mean: the exact sum is rounded to float32 once, and its quotient once."""
        for part in parts(mean_P.size):
            mean = mean_P[part]
            mean[:] = self._sum_P[part]
            mean *= STEP
            if self._senders_P is None:
                mean /= np.float32(self.weight)
            else:
                mean /= np.maximum(self._senders_P[part], 1).astype(np.float32)

    def _at(self, positions: Sent, part: slice) -> slice | np.ndarray:
        """Return where a block of a reply's values belongs among all P."""
        if positions is None:
            return part
        return positions[part] if isinstance(positions, np.ndarray) else positions.part(part)

    def _add(self, at: slice | np.ndarray, steps: np.ndarray, full: int) -> None:
        if isinstance(at, slice):
            self._sum_P[at] += steps
        else:
            np.add.at(self._sum_P, at, steps)  # no copy of what is there
        if self._senders_P is not None:
            self._senders_P[at] += np.int32(full)


def whole_steps(values: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Return values as whole numbers of 2^-44, int64, each multiplied by `scale` before."""
    # Scaling by a power of two is exact; only parts below one step are rounded (half to even).
    scaled = (values * np.float32(scale) if scale != 1 else values) * _STEPS
    steps: np.ndarray = np.rint(scaled, out=scaled).astype(np.int64)
    return steps


def whole_weights(counts: Mapping[str, int], most: int = WEIGHTS) -> dict[str, int]:
    """Return whole weights in proportion to counts, that sum to little.

    Counts are divided by their common divisor. If they still sum to more than `most`, they are
    multiplied by 2 most / D instead, for the smallest whole D at which the weights, rounded to
    the nearest (half up) and to at least 1, sum to no more.

    What rounding changes: a weight by at most 1/2, so that a client's part of the mean is wrong by
    a share of 1 / (2 weight): 5 % where `most` is 1024 and this client one of 100. Who would have
    less than 1/2 gets 1, which the others have less: this is little as long as few clients
    have less than 1 / (2 most) of all counts. Equal counts have equal weights, and the order of the
    clients changes nothing.

    Parameters
    ----------
    counts : what each client should count for, 0 or more; 0 counts as the least.
    most : what the weights sum to at most; the number of clients, if there are more.
    """
    most = max(most, len(counts))
    divisor = gcd(*counts.values()) or 1

    def weights(D: int) -> dict[str, int]:
        return {c: max(1, (4 * most * n + D) // (2 * D)) for c, n in counts.items()}

    def fits(D: int) -> bool:
        return sum(weights(D).values()) <= most

    if fits(exact := 2 * most * divisor):
        return weights(exact)
    largest = 4 * most * max(counts.values())
    return weights(bisect_left(range(largest), True, lo=exact, key=fits))
