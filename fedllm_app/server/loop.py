"""Algorithm 1 (Raje 2024) for any method: sample, send, fold the replies in, step, evaluate.

Knows no Flower. A transport carries requests to clients and brings replies back; the method says
what travels; codec, exact mean and optimizer are called by name. Everything random comes from
(seed, round), so a run that was killed goes on from its checkpoint to the same bits.

Shapes: P trainable parameters.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fedllm_app.core.errors import FedllmError
from fedllm_app.core.plan import PARAMS
from fedllm_app.core.state import RunState
from fedllm_app.run.clock import Clock
from fedllm_app.run.record import Outcome, Recorder
from fedllm_app.server.asked import Asked, Key, asked_for
from fedllm_app.server.checked import MOST_COUNT
from fedllm_app.server.clip import Clip
from fedllm_app.server.guard import Guard
from fedllm_app.server.intake import Intake
from fedllm_app.server.limits import Limits
from fedllm_app.server.methods.base import Means
from fedllm_app.server.opened import OpenRound, record_downloads
from fedllm_app.server.optimizer import ServerOptimizer
from fedllm_app.server.pacing.base import Pacing
from fedllm_app.server.planning import Planned, Planner
from fedllm_app.server.transport import Transport
from fedllm_app.server.weights import WeightBy, Weights

log = logging.getLogger("fedllm")


@dataclass(kw_only=True)
class Loop:
    """One run of Algorithm 1.

    Attributes
    ----------
    state : where the run stands; a closed round replaces it.
    resumed : the state is a checkpoint's.
    planner : the method, and what goes down.
    pacing : who is asked, which reply counts, when the server steps.
    limits : when a run ends and how long it may wait.
    optimizer : the dense parameters P and the server's optimizer.
    transport : carries the jobs.
    evaluate : metrics of a flat vector, headline first, or None without test data.
    recorder : writes the run's folder.
    min_replies : accepted replies below which a round takes no step.
    weights : how much a reply counts.
    most_units, most_steps : the most units and steps that a job on so many examples can take.
    guard : how replies are bounded and combined.
    schedule : what the server's learning rate is multiplied by at a step.
    waiting : jobs that are open from earlier rounds, under a policy that waits on them.
    """

    state: RunState
    resumed: bool
    planner: Planner
    pacing: Pacing
    limits: Limits
    optimizer: ServerOptimizer
    transport: Transport
    evaluate: Callable[[np.ndarray], dict[str, float]] | None
    recorder: Recorder
    min_replies: int = 1
    weights: WeightBy = "uniform"
    guard: Guard = field(default_factory=Guard)
    most_units: Callable[[int], int] = int
    most_steps: Callable[[int], int] = lambda examples: MOST_COUNT
    schedule: Callable[[int], float] = lambda step: 1.0
    waiting: dict[Key, Asked] = field(default_factory=dict)

    def play(self) -> str:
        """Play every round that is left and return why the run ended."""
        if not self.resumed:
            self.begin()
        self.recorder.begin_rounds(self.state.round)
        ended = ""
        while not ended:
            ended = self.limits.ended(self.state) or self.play_round()
        evaluation = {} if self.state.evaluated == self.state.round else self.evaluation()
        self.state = replace(self.state.with_evaluation(evaluation), finished=ended)
        self.recorder.finish(self.state, evaluation, self.optimizer.tensors())
        log.info("ended after round %d: %s", self.state.round, ended)
        return ended

    def play_round(self) -> str:
        """Play the next round, or return why it is not begun (Raje 2024, Algorithm 1)."""
        # 1. Sample a cohort of the clients that are there.
        clients = self.transport.clients()
        cohort = self.pacing.ask(self.state, clients, {client for _, client in self.waiting})
        # 2. Choose what each of them receives, trains and returns, and encode what goes down.
        opened = self.open_round(cohort, clients)
        if why := self.limits.over_budget(self.state, self.recorder.ledger.totals, opened.bound):
            return why
        # 3. Send it. Every device trains on its own data and sends back what the plan says.
        self.transport.submit(opened.requests, self.limits.timeout_s(self.state))
        record_downloads(self.recorder.ledger, opened, self.planner.layout.size)
        # 4. Fold each reply into the mean as it comes.
        self.collect(opened)
        # 5. Step the server's optimizer on the mean, evaluate, and write the round down.
        self.close_round(opened)
        return ""

    def begin(self) -> None:
        """Evaluate the model before round 1 and write the first checkpoint."""
        clock = Clock()
        evaluation = self.evaluation()
        self.limits.closing_s = clock.seconds()
        self.state = replace(self.state, evaluation=evaluation, evaluated=0)
        self.recorder.begin(next(iter(evaluation), ""), evaluation)
        self.state = self.recorder.checkpoint(self.state, self.optimizer.tensors())

    def open_round(self, cohort: Sequence[str], clients: Mapping[str, int]) -> OpenRound:
        """Plan the next round for a cohort and encode what goes down.

        Raises
        ------
        FedllmError
            If the cohort is empty.
        """
        if not cohort and not self.waiting:
            raise FedllmError("no client has any examples; check data.train and the partition")
        clock, planner = Clock(), self.planner
        planned = planner.plan(self.state, self.optimizer.params, cohort, self.transport.profiles())
        planner.log_untrained(planned)
        clock.lap("plan")
        requests, downloads = planner.requests(self.state, planned)
        clock.lap("encode")
        asked = [
            job
            for request in requests
            for job in asked_for(
                request, planned.plan.groups[request.group], planner.layout, planner.seed,
                planner.wire,
            )
        ]  # fmt: skip
        bound = self.limits.bound(self.state, asked)
        intake = self.intake(planned, [*self.waiting.values(), *asked], clients)
        return OpenRound(planned, requests, downloads, intake, clock, bound, clients)

    def intake(
        self, planned: Planned, asked: Sequence[Asked], clients: Mapping[str, int]
    ) -> Intake:
        """Return what takes the replies of these jobs, with a mean for each vector."""
        counts = {job.job.client: clients.get(job.job.client, 1) for job in asked}
        weights = Weights(self.weights, counts, self.most_units)
        pacing, state = self.pacing, self.state
        most, P = weights.total * pacing.fresh, self.planner.layout.size
        means = self.guard.means(P, asked, planned.plan.mean, most)
        return Intake(
            state.round + 1,
            asked,
            means,
            lambda job, metrics: weights.of(job, metrics) * pacing.weight(state, job),
            self.recorder.ledger,
            Clip(self.guard.bound, state.norms),
        )

    def collect(self, opened: OpenRound) -> None:
        """Fold replies in as they come, until the policy steps or the round's time is over."""
        intake, clock = opened.intake, opened.clock
        deadline = time.monotonic() + self.limits.timeout_s(self.state)
        while not self.pacing.due(intake) and time.monotonic() < deadline:
            replies = self.transport.poll()
            clock.lap("wait")
            for reply in replies:
                intake.take(reply)
            clock.lap("fold")
        if self.pacing.waits_on:
            self.waiting = dict(intake.open)
        else:
            intake.give_up()
        intake.close()

    def close_round(self, opened: OpenRound) -> None:
        """Step on what has come, evaluate where due, and write the round down."""
        intake, clock = opened.intake, opened.clock
        norm, self.state = self.step(opened)
        clock.lap("step")
        evaluation = self.evaluation() if self.limits.evaluation_due(opened.t) else {}
        clock.lap("evaluate")
        simulated_s = self.limits.simulated_s(self.recorder.ledger.traffic(), opened.bound)
        spent = self.state.spent
        self.state = replace(
            self.state.with_evaluation(evaluation),
            pending=intake.outstanding(self.state.pending),
            norms=intake.clip.norms(),
            spent=replace(spent, simulated_s=spent.simulated_s + (simulated_s or 0.0)),
        )
        loss = intake.train_loss()
        outcome = Outcome(
            intake.accepted, intake.dropped, loss, norm, evaluation, simulated_s,
            intake.failed, intake.clip.clipped, intake.clip.limit(PARAMS),
        )  # fmt: skip
        self.recorder.end_round(self.state, outcome)
        if self.recorder.checkpoint_due(opened.t):
            self.state = self.recorder.checkpoint(self.state, self.optimizer.tensors())
        clock.lap("checkpoint")
        self.limits.closed(clock)
        slowest_s = max(self.state.spent.slowest_s, clock.seconds())
        self.state = replace(self.state, spent=replace(self.state.spent, slowest_s=slowest_s))
        self.recorder.end_timing(self.state, outcome, clock)

    def step(self, opened: OpenRound) -> tuple[float | None, RunState]:
        """Take the server's step; return the norm of the mean change and the state after it."""
        intake, planned = opened.intake, opened.planned
        state = replace(self.state, accepted=intake.remembered(self.state.accepted))
        counts = opened.clients  # what a client says that it did is bounded by what it can do
        took = [
            min(m.steps, self.most_steps(counts.get(c, 1))) for (_, c), m in intake.accepted.items()
        ]
        clock = state.clock + max(took, default=0)
        if len(intake.accepted) < self.min_replies:
            log.warning("round %d takes no step: %d replies accepted, round.min-replies is %d",
                        opened.t, len(intake.accepted), self.min_replies)  # fmt: skip
            return None, state.without_step(clock, intake.dropped, len(intake.accepted))
        means: Means = {name: mean.mean() for name, mean in intake.means.items() if mean.n}
        method_state = planned.method_state
        if before_step := self.planner.method.before_step:
            means, method_state = before_step(planned.inputs, method_state, means)
        self.optimizer.step(
            means[PARAMS], planned.step, planned.plan.outside, self.schedule(state.steps)
        )
        used = {c: state.progress.get(c, 0) + m.examples for (_, c), m in intake.accepted.items()}
        return float(np.linalg.norm(means[PARAMS])), replace(
            state,
            round=opened.t,
            clock=clock,
            steps=state.steps + 1,
            idle=0,
            reasons={},
            method=method_state,
            downloads=opened.downloads,
            accepted={**state.accepted, **intake.jobs},
            progress={**state.progress, **used},
        )

    def served(self) -> np.ndarray:
        """Return what a device of the served group would hold next, float32 of shape (P,)."""
        return self.planner.served(self.state, self.optimizer.params)

    def evaluation(self) -> dict[str, float]:
        """Return the metrics of the model that devices would receive next, or {}."""
        return self.evaluate(self.served()) if self.evaluate else {}
