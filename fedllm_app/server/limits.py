"""When a run ends, how long a round may wait, what it may cost: the policies around the loop."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fedllm_app.core.effort import Effort
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.region import Where
from fedllm_app.core.state import RunState
from fedllm_app.devices.meter import Meter, Usage, total
from fedllm_app.devices.network import Network, Traffic
from fedllm_app.run.budget import Cost, over_budget
from fedllm_app.run.clock import Clock
from fedllm_app.run.ledger import Ledger
from fedllm_app.run.settings import RoundSettings, RunSettings
from fedllm_app.server.asked import Asked

SHORTEST_WAIT_S = 0.01  # a message that may live no time at all is refused


@dataclass
class Limits:
    """The limits of one run.

    Attributes
    ----------
    run, round : the settings.
    network : the links that simulated seconds are counted over, None without a clock.
    falling : metrics that are better when lower.
    closing_s : the longest that a round took after the wait for its replies.
    measured : how many devices the next evaluation sends the model to.
    began : when this process began the run, by the monotonic clock.
    """

    run: RunSettings
    round: RoundSettings
    network: Network | None = None
    falling: frozenset[str] = frozenset()
    closing_s: float = 0.0
    measured: Callable[[], int] = lambda: 0
    began: float = field(default_factory=time.monotonic)

    def seconds(self, state: RunState) -> float:
        """Return the running time over all resumes."""
        return state.spent.seconds + time.monotonic() - self.began

    def timeout_s(self, state: RunState) -> float:
        """Return the seconds that a round may wait: its time-out, or what is left of the run.

        What follows the wait (step, evaluation, checkpoint) has to fit into the run as well.
        """
        if not self.round.max_seconds:
            return self.round.timeout_s
        left = self.round.max_seconds - self.seconds(state) - self.closing_s
        return min(self.round.timeout_s, max(left, SHORTEST_WAIT_S))

    def evaluation_s(self, state: RunState) -> float:
        """Return the seconds that an evaluation on devices may wait, at the end of the run too."""
        if not self.round.max_seconds:
            return self.round.timeout_s
        left = self.round.max_seconds - self.seconds(state)
        return min(self.round.timeout_s, max(left, self.closing_s, SHORTEST_WAIT_S))

    def bound(
        self,
        state: RunState,
        asked: Sequence[Asked],
        open: Sequence[Asked] = (),
        waits: bool = True,
    ) -> Cost:
        """Return the most that a round can cost, late uploads of earlier ones included.

        The evaluation that follows is part of it, since a run ends with one.

        Parameters
        ----------
        asked : the jobs that are to be sent.
        open : jobs that were sent before.
        waits : a client that is done waits for the end of the round.
        """
        traffic: Traffic = {a.job.client: (a.down_bytes, a.most_bytes) for a in asked}
        down, up = sum(a.down_bytes for a in asked), sum(a.most_bytes for a in (*asked, *open))
        if self.round.max_down_bytes:
            down += self.measured() * max((a.down_bytes for a in asked), default=0)
        up += sum(most for _, _, most in state.pending)
        seconds, amounts = max(state.spent.slowest_s, self.closing_s), amounts_of(asked)
        simulated_s = self.network.round_seconds(traffic, amounts) if self.network else 0.0
        lasted_s = simulated_s if waits else 0.0
        energy_j = self._energy_j(traffic, amounts, _to_come(state, open), lasted_s)
        return Cost(up, down, seconds, simulated_s, energy_j)

    def _energy_j(
        self,
        traffic: Traffic,
        amounts: Mapping[str, float],
        coming: Mapping[str, int],
        lasted_s: float,
    ) -> float:
        """Return the joules of jobs that are to be sent, and of uploads that may still come.

        What a job that was sent before has computed and received is spent already.
        """
        meter = self.meter
        if meter is None:
            return 0.0
        used = []
        for client in sorted(traffic.keys() | coming.keys()):
            down, up = traffic.get(client, (None, None))
            most = (up or 0) + coming.get(client, 0)
            used.append(meter.usage(client, down, most, amounts.get(client, 0), lasted_s))
        return total(used).energy_j

    def amount(self, effort: Effort, where: Where, layout: ParamLayout) -> float:
        """Return what a job computes that trains these coordinates, 0 without a clock."""
        return self.network.amount(effort, where, layout) if self.network else 0.0

    @property
    def meter(self) -> Meter | None:
        """What reckons seconds and joules of simulated devices, None without any."""
        if self.network is None or self.network.fleet is None:
            return None
        return Meter(self.network.fleet, self.network)

    def usage(
        self, ledger: Ledger, amounts: Mapping[str, float], lasted_s: float
    ) -> dict[str, Usage]:
        """Return what each simulated device used in the open round, {} without devices.

        Parameters
        ----------
        ledger : has what went to each client and came from it.
        amounts : what a job of each client computes.
        lasted_s : of the round, 0 where nobody waits for its end.
        """
        meter = self.meter
        return {} if meter is None else {
            client: meter.usage(
                client, one.down_bytes, one.up_bytes, one.jobs * amounts.get(client, 0), lasted_s
            )
            for client, one in sorted(ledger.moved().items())
        }  # fmt: skip

    def over_budget(
        self, state: RunState, ledger: Ledger, bound: Cost, amounts: Mapping[str, float]
    ) -> str:
        """Return why the next jobs are not given, or "".

        Parameters
        ----------
        ledger : of the run, with what the open round has moved.
        bound : the most that the jobs can add.
        amounts : as of `usage`.
        """
        totals, so_far = ledger.totals, total(self.usage(ledger, amounts, 0.0).values())
        spent = Cost(
            totals.up_bytes, totals.down_bytes, self.seconds(state), state.spent.simulated_s,
            state.spent.energy_j + so_far.energy_j,
        )  # fmt: skip
        return over_budget(self.round, spent, bound)

    def simulated_s(
        self, traffic: Traffic, amounts: Mapping[str, float], bound: Cost
    ) -> float | None:
        """Return how long a round lasts by its measured bytes, None without a clock.

        Parameters
        ----------
        amounts : what each client computes.
        """
        if self.network is None:
            return None
        # A server hangs up where an update grows beyond what the plan allows.
        return min(self.network.round_seconds(traffic, amounts), bound.simulated_s)

    def ended(self, state: RunState) -> str:
        """Return why no further round is due, or ""."""
        if why := self.failed(state):
            return why
        if state.round >= self.run.rounds:
            return f"all {self.run.rounds} rounds"
        return self.target_reached(state.evaluation)

    def failed(self, state: RunState) -> str:
        """Return why the run, as it stands, has no result worth going on with, or ""."""
        return self.not_finite(state) or self.gave_up(state)

    def gave_up(self, state: RunState) -> str:
        """Return a sentence once too many rounds in a row took no step, or ""."""
        if not 0 < self.round.give_up_after <= state.idle:
            return ""
        counts = sorted(state.reasons.items(), key=lambda pair: (-pair[1], pair[0]))
        replies = ", ".join(f"{count} {name}" for name, count in counts) or "none"
        return (
            f"given up: rounds {state.round - state.idle + 1} to {state.round} took no step "
            f"(round.give-up-after is {self.round.give_up_after}). Their replies: {replies}. "
            "The log names the cause of each drop"
        )

    def not_finite(self, state: RunState) -> str:
        """Return a sentence if the loss that the server measured last is no number, or ""."""
        loss = state.evaluation.get("loss", 0.0)
        if math.isfinite(loss):
            return ""
        return (
            f"the loss that the server measured after round {state.evaluated} is {loss}: the model "
            "has diverged. Start a run with a new run.name and a smaller client.lr or server.lr"
        )

    def evaluation_due(self, t: int) -> bool:
        """Say whether round `t` ends with an evaluation; the last one always does."""
        every = self.round.evaluate_every
        return t == self.run.rounds or (every > 0 and t % every == 0)

    def target_reached(self, evaluation: Mapping[str, float]) -> str:
        """Return a sentence once an evaluation reaches the target, or ""."""
        target = self.round.target
        name = self.round.target_metric or next(iter(evaluation), "")
        if not target or name not in evaluation:
            return ""
        value = evaluation[name]
        reached = value <= target if name in self.falling else value >= target
        return f"target {name} {target:g} reached ({value:.4f})" if reached else ""

    def closed(self, clock: Clock) -> None:
        """Remember how long a round took after its wait."""
        self.closing_s = max(self.closing_s, clock.seconds("step", "evaluate", "checkpoint"))


def _to_come(state: RunState, open: Sequence[Asked]) -> dict[str, int]:
    """Return by client the most bytes of uploads that were asked for before."""
    coming = Counter[str]()
    for client, _, most in state.pending:
        coming[client] += most
    for one in open:
        coming[one.job.client] += one.most_bytes
    return coming


def amounts_of(asked: Sequence[Asked]) -> dict[str, float]:
    """Return what each client is asked to compute."""
    return {one.job.client: one.amount for one in asked}
