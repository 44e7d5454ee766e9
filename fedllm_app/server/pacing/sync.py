"""Synchronous rounds (McMahan et al. 2017): ask a cohort, wait for all of it, then step."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fedllm_app.core.state import RunState
from fedllm_app.server.asked import Asked
from fedllm_app.server.intake import Intake
from fedllm_app.server.sampling import sample_cohort


@dataclass(frozen=True)
class Sync:
    """Every round has a cohort of its own.

    Attributes
    ----------
    clients : sampled each round.
    seed : of the run.
    """

    clients: int
    seed: int
    fresh: int = 1
    waits_on: bool = False
    refills: bool = False
    ordered: bool = False
    lasts_s: float = 0.0

    @property
    def about(self) -> str:
        """Say who is asked, and when the server steps."""
        return f"{self.clients} a round"

    def ask(
        self,
        state: RunState,
        clients: Mapping[str, int],
        open: Collection[str],
        failed: Collection[str] = (),
    ) -> list[str]:
        """Return the cohort of the next round."""
        return sample_cohort(clients, self.clients, self.seed, state.round + 1)

    def weight(self, state: RunState, asked: Asked) -> int:
        """Return 1: a reply of another round is not awaited."""
        return self.fresh

    def most(self, asked: int) -> int:
        """Return all that are asked."""
        return asked

    def wanted(self, intake: Intake) -> int:
        """Return how many replies have not come."""
        return len(intake.open)
