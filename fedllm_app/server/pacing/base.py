"""What a pacing policy decides; the loop asks it and knows no policy by name.

`sync` is the one that ships. A buffered or a deadline policy is a file beside it: jobs are open
by their own id, and each carries the plan, the base and the bounds that its reply is held against.
"""

from collections.abc import Mapping
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

    def ask(self, state: RunState, clients: Mapping[str, int], open: set[str]) -> list[str]:
        """Return the clients that are asked now.

        Parameters
        ----------
        clients : examples of each client that is there.
        open : clients with a job that is still open.
        """

    def weight(self, state: RunState, asked: Asked) -> int:
        """Return how much a reply counts: `fresh` in full, less if it is stale, 0 not at all."""

    def due(self, intake: Intake) -> bool:
        """Say whether the server steps now, before the time-out of the round."""
