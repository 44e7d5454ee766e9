"""What a pacing policy decides; the loop asks it and knows no policy by name.

Jobs are open by their own id, and each carries the plan, the base and the bounds that its reply is
held against, so that a policy may wait for it longer than a round.
"""

from collections.abc import Collection, Mapping
from typing import Protocol

from fedllm_app.core.state import RunState
from fedllm_app.server.asked import Asked
from fedllm_app.server.intake import Intake


class Pacing(Protocol):
    """A policy of when to ask and when to step."""

    @property
    def fresh(self) -> int:
        """The whole weight of a reply that counts in full."""

    @property
    def waits_on(self) -> bool:
        """Whether jobs that are open when the server steps stay open for a later step."""

    @property
    def refills(self) -> bool:
        """Whether a client that is free is given a job within a round, by an id of its own."""

    @property
    def ordered(self) -> bool:
        """Whether it matters which reply comes first, so that a simulation has to say."""

    @property
    def lasts_s(self) -> float:
        """Seconds after which a round closes, simulated where a clock runs; 0 for no such limit."""

    @property
    def about(self) -> str:
        """Who is asked, and when the server steps, in words."""

    def ask(
        self,
        state: RunState,
        clients: Mapping[str, int],
        open: Collection[str],
        busy: Collection[str] = (),
    ) -> list[str]:
        """Return the clients that are asked now.

        Parameters
        ----------
        clients : examples of each client that is there.
        open : clients with a job that is still open.
        busy : clients that are not asked now: their device is at an earlier job, or their reply
            was dropped in this round.
        """

    def weight(self, state: RunState, asked: Asked) -> int:
        """Return how much a reply counts: `fresh` in full, less if it is stale, 0 not at all."""

    def most(self, asked: int) -> int:
        """Return how many replies a step is on at most, where so many are asked."""

    def wanted(self, intake: Intake) -> int:
        """Return how many replies the step still waits for; with 0 the server steps."""
