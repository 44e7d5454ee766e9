"""Buffered asynchronous averaging (FedBuff, Nguyen et al. 2022, arXiv 2106.06639).

A fixed number of clients is at work at any time. A reply is folded in as it comes, whatever step
its model was from, and whoever is free is given a job at once, from the newest model. After every
`goal` replies the server steps.

A reply counts 1 / sqrt(1 + s), where s is the number of steps that the server took since the
reply's model. Weights are whole numbers, so that a sum is exact in any order: `FRESH` times that,
rounded, 64, 45, 37, 32, 29 ... and at least 1. Rounding changes a weight by at most 1 % up to
s = 1, 3 % up to s = 15 and 8 % up to s = 100. As in the paper the sum is divided by the number of
replies and not by that of their weights: a step on stale replies is a smaller step.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fedllm_app.core.seeds import generator
from fedllm_app.core.state import RunState
from fedllm_app.devices.available import Present, everybody
from fedllm_app.server.asked import Asked
from fedllm_app.server.intake import Intake

FRESH = 64


@dataclass(frozen=True)
class Buffered:
    """So many clients are at work at any time; every so many replies the server steps.

    Attributes
    ----------
    concurrency : clients at work.
    goal : accepted replies for a step.
    most_stale : steps after which a reply no longer counts.
    seed : of the run.
    present : says which clients are there in a round.
    """

    concurrency: int
    goal: int
    most_stale: int
    seed: int
    present: Present = everybody
    fresh: int = FRESH
    waits_on: bool = True
    refills: bool = True
    ordered: bool = True
    lasts_s: float = 0.0

    @property
    def about(self) -> str:
        """Say who is asked, and when the server steps."""
        return f"{self.concurrency} at work at any time, a step every {self.goal} replies"

    def ask(
        self,
        state: RunState,
        clients: Mapping[str, int],
        open: Collection[str],
        busy: Collection[str] = (),
    ) -> list[str]:
        """Return who is given the next jobs: each drawn by (seed, number of the job).

        A client whose reply was dropped in this round waits for the next one, so that a fault which
        comes at once is not met again and again.
        """
        there = self.present(clients, state.round + 1)
        free = {client for client, count in there.items() if count > 0}
        left, chosen = sorted(free - set(open) - set(busy)), list[str]()
        for number in range(self.concurrency - len(set(open))):
            if not left:
                break
            rng = generator(self.seed, "next", state.given + 1 + number)
            chosen.append(left.pop(int(rng.integers(len(left)))))
        return chosen

    def weight(self, state: RunState, asked: Asked) -> int:
        """Return the discounted weight of a reply, 0 where it is too stale."""
        return discounted(state.round + 1 - asked.round, self.most_stale)

    def most(self, asked: int) -> int:
        """Return the goal, however many are asked."""
        return self.goal

    def wanted(self, intake: Intake) -> int:
        """Return how many replies are left to the goal."""
        return self.goal - len(intake.accepted)


def discounted(stale: int, most_stale: int) -> int:
    """Return the whole weight, of `FRESH`, of a reply that is so many steps old."""
    return 0 if stale > most_stale else max(1, round(FRESH / math.sqrt(1 + stale)))
