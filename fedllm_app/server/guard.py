"""What one reply can do to the model: how its norm is bounded, and how replies are combined."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from fedllm_app.core.plan import PARAMS, MeanOver
from fedllm_app.run.settings import Aggregated, RoundSettings
from fedllm_app.server.aggregate import Aggregate, Mean
from fedllm_app.server.clip import AUTO, OFF, Bound
from fedllm_app.server.robust import Robust


@dataclass(frozen=True)
class Guard:
    """The keys of `round` that bound and combine replies.

    Attributes
    ----------
    bound : of a reply's norm.
    aggregate, trim : `round.aggregate`, `round.trim`.
    """

    bound: Bound = field(default_factory=Bound)
    aggregate: Aggregated = "mean"
    trim: float = 0.2

    @classmethod
    def of(cls, settings: RoundSettings) -> "Guard":
        """Return what the settings of a round ask for."""
        norm = settings.clip if settings.clip in (AUTO, OFF) else float(settings.clip)
        bound = Bound(norm, settings.clip_factor, settings.clip_action == "drop")
        return cls(bound, settings.aggregate, settings.trim)

    def means(
        self, P: int, names: Collection[str], most: int, mean: MeanOver, most_weight: int
    ) -> dict[str, Aggregate]:
        """Return what the replies of a step are combined by, for each vector.

        Parameters
        ----------
        names : of the vectors; the parameters are always among them.
        most : replies that can come.
        mean : who counts where a coordinate of the parameters was not sent.
        most_weight : most that the weights of all replies can sum to.
        """
        how: dict[str, Any] = {"cohort": most, "most_weight": most_weight}
        return {
            name: self._combining(P, how | {"mean": mean if name == PARAMS else "cohort"})
            for name in {PARAMS, *names}
        }

    def _combining(self, P: int, how: dict[str, Any]) -> Aggregate:
        if self.aggregate == "mean":
            return Mean(P, **how)
        return Robust(P, trim=self.trim if self.aggregate == "trimmed-mean" else None, **how)
