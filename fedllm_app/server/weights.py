"""How much a reply counts in the mean: all alike, or by its examples or tokens (McMahan 2017).

Weights are whole numbers, so that the sum stays exact and free of order.
"""

from collections.abc import Callable, Mapping
from typing import Literal

from fedllm_app.core.job import TrainMetrics
from fedllm_app.server.aggregate import MOST_WEIGHT, WEIGHTS, whole_weights
from fedllm_app.server.asked import Asked

WeightBy = Literal["uniform", "examples", "tokens"]


class Weights:
    """The whole weights of one round's replies.

    Parameters
    ----------
    by : "uniform"; "examples", that a client has; or "tokens", that its training saw: the units of
        its loss, as it reports them.
    counts : examples of each client of the cohort.
    most_units : the most units that training on so many examples can see. A reply that reports
        more counts as this many.
    replies : how many there are at most, of any of these clients and one client's several times;
        None is one of each.
    fresh : what each weight is multiplied by before it is discounted.

    Attributes
    ----------
    total : the most that all weights can sum to.
    """

    def __init__(
        self,
        by: WeightBy,
        counts: Mapping[str, int],
        most_units: Callable[[int], int],
        replies: int | None = None,
        fresh: int = 1,
    ) -> None:
        self._by, most = by, WEIGHTS
        if replies is not None:  # so that as many of them together weigh as much as a cohort
            most = min(WEIGHTS * -(-len(counts) // replies), MOST_WEIGHT // (fresh * replies))
        self._weights = dict.fromkeys(counts, 1)
        if by == "examples":
            self._weights = whole_weights(counts, most)
        if by == "tokens":
            self._most = {client: most_units(count) for client, count in counts.items()}
            self._share = min(1.0, most / max(1, sum(self._most.values())))
            self._weights = {client: self._scaled(most) for client, most in self._most.items()}
        self.total = sum(self._weights.values())
        if replies is not None:
            self.total = replies * max(self._weights.values(), default=1)

    def of(self, asked: Asked, metrics: TrainMetrics) -> int:
        """Return the weight of a reply, at least 1."""
        client = asked.job.client
        if self._by == "tokens":
            return self._scaled(min(metrics.units, self._most[client]))
        return self._weights[client]

    def _scaled(self, units: int) -> int:
        return max(1, round(units * self._share))
