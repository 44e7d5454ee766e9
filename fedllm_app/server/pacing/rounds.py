"""What policies share whose rounds have a cohort each, and wait for no reply of another round."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fedllm_app.core.state import RunState
from fedllm_app.devices.available import Present, everybody
from fedllm_app.server.asked import Asked
from fedllm_app.server.sampling import sample_cohort


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Every round has a cohort of its own.

    Attributes
    ----------
    asked : clients sampled each round.
    seed : of the run.
    present : says which clients are there in a round.
    """

    asked: int
    seed: int
    present: Present = everybody
    fresh: int = 1
    waits_on: bool = False
    refills: bool = False

    def ask(
        self,
        state: RunState,
        clients: Mapping[str, int],
        open: Collection[str],
        busy: Collection[str] = (),
    ) -> list[str]:
        """Return the cohort of the next round, of those that are free."""
        clients = self.present(clients, state.round + 1)
        if busy:
            clients = {client: n for client, n in clients.items() if client not in busy}
        return sample_cohort(clients, self.asked, self.seed, state.round + 1)

    def weight(self, state: RunState, asked: Asked) -> int:
        """Return 1: a reply of another round is not awaited."""
        return self.fresh
