"""The mean of a round's replies, folded in as they arrive (FLoSS, Raje 2024, Algorithm 1).

Values are summed as whole numbers of 2^-44, so that the sum is exact: replies may come in any
order, from any number of workers, and the bits are the same. Memory is one int64 per parameter,
however many clients there are.

"Sent a zero" and "not sent" add the same to the sum and differ in the count of senders.

Shapes: P trainable parameters, K coordinates of one reply.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from fedllm_app.core.errors import WireError
from fedllm_app.core.region import Region, Where

STEP_BITS = 44
MOST_WEIGHT = 1 << 10
_STEPS = np.float32(2.0**STEP_BITS)
_STEP = np.float32(2.0**-STEP_BITS)


class Mean:
    """A running sum of at most `cohort` replies.

    Parameters
    ----------
    P : trainable parameters.
    cohort : most replies that can come; magnitudes must stay below 2^19 / cohort, so that not
        even the sum of all of them leaves int64.
    mean : "cohort" divides by the replies folded in; "senders" divides each coordinate by the
        replies that sent it.

    Attributes
    ----------
    n : replies folded in so far.
    """

    def __init__(
        self,
        P: int,
        *,
        cohort: int,
        mean: Literal["cohort", "senders"] = "cohort",
        most_weight: int = 0,
    ) -> None:
        self.n = 0
        self.P = P
        self.cohort = cohort
        self.limit = 2.0 ** (63 - STEP_BITS) / (most_weight or cohort)
        self._sum_P = np.zeros(P, dtype=np.int64)
        self._senders_P = np.zeros(P, dtype=np.int32) if mean == "senders" else None

    def fold(self, positions: Where, values_K: np.ndarray, weight: int = 1) -> None:
        """Add one reply; what is refused leaves the sum as it was.

        Parameters
        ----------
        positions : strictly ascending int64 array of shape (K,); None for all P.
        values_K : float32 array of shape (K,)

        Raises
        ------
        WireError
            If a value is not finite, or its magnitude is 2^19 / cohort or more, if positions do
            not fit, or if more than `cohort` replies come.
        """
        if self.n == self.cohort:
            raise WireError(f"a reply more than the cohort of {self.cohort} came")
        self.check(positions, values_K)
        # Scaling by a power of two is exact; only parts below one step are rounded (half to even).
        steps_K = np.rint(values_K * _STEPS).astype(np.int64) * weight
        if isinstance(positions, Region):
            positions = positions.positions()
        if positions is None:
            self._sum_P += steps_K
        else:
            np.add.at(self._sum_P, positions, steps_K)  # no copy of what is there
        if self._senders_P is not None:
            self._senders_P[slice(None) if positions is None else positions] += weight
        self.n += weight

    def mean(self) -> np.ndarray:
        """Return the float32 mean of shape (P,), 0 where nobody sent.

        The exact sum is rounded to float32 once, and its quotient once.

        Raises
        ------
        WireError
            If no reply was folded in.
        """
        if self.n == 0:
            raise WireError("no reply was accepted; a mean needs one. See round.min-replies")
        mean_P = self._sum_P.astype(np.float32)
        mean_P *= _STEP
        if self._senders_P is None:
            mean_P /= np.float32(self.n)
        else:
            mean_P /= np.maximum(self._senders_P, 1).astype(np.float32)
        return mean_P

    def check(self, positions: Where, values_K: np.ndarray) -> None:
        """Raise WireError if these cannot be folded in; see `fold`."""
        P = self._sum_P.size
        K = P if positions is None else positions.size
        if values_K.dtype != np.float32 or values_K.shape != (K,):
            raise WireError(
                f"values are {values_K.dtype} of shape {values_K.shape}; "
                f"expected float32 of shape {(K,)}"
            )
        if K == 0:
            return
        # NaN goes through min and max, so that two passes without a copy find everything.
        largest = max(-float(values_K.min()), float(values_K.max()))
        if not np.isfinite(largest):
            raise WireError("a value is NaN or infinite; expected finite values", "non-finite")
        if largest >= self.limit:
            raise WireError(
                f"a value has magnitude {largest!r}; expected below {self.limit!r}, 2^19 / "
                f"{self.cohort} clients of the cohort. A lower client.lr may help"
            )
        if positions is None or isinstance(positions, Region):
            return
        if int(positions[0]) < 0 or int(positions[-1]) >= P:
            raise WireError(f"positions leave 0..{P - 1}")
        if not bool((positions[1:] > positions[:-1]).all()):
            raise WireError("positions are not strictly ascending")


def whole_weights(counts: Mapping[str, int]) -> dict[str, int]:
    """Return whole weights."""
    total = sum(counts.values())
    return {c: max(1, round(MOST_WEIGHT * n / total)) for c, n in counts.items()}
