"""Synchronous rounds (McMahan et al. 2017): ask a cohort, wait for all of it, then step."""

from dataclasses import dataclass

from fedllm_app.server.intake import Intake
from fedllm_app.server.pacing.rounds import Rounds


@dataclass(frozen=True, kw_only=True)
class Sync(Rounds):
    """Every round waits for all that it asked."""

    ordered: bool = False
    lasts_s: float = 0.0

    @property
    def about(self) -> str:
        """Say who is asked, and when the server steps."""
        return f"{self.asked} a round"

    def most(self, asked: int) -> int:
        """Return all that are asked."""
        return asked

    def wanted(self, intake: Intake) -> int:
        """Return how many replies have not come."""
        return len(intake.open)
