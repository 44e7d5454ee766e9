"""Algorithm 1 (Raje 2024) for any method: sample, send, fold the replies in, step, evaluate.

Knows no Flower. A transport carries requests to clients and brings replies back; the method says
what travels; codec, exact mean and optimizer are called by name. Everything random comes from
(seed, round), so a run that was killed goes on from its checkpoint to the same bits.

Shapes: P trainable parameters, K coordinates of a payload.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import numpy as np

from fedllm_app.core.derive import base_of, expand, held_by
from fedllm_app.core.errors import FedllmError
from fedllm_app.core.job import Job, Reply, Request
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import ClientPlan, Positions, RoundPlan
from fedllm_app.core.seeds import generator
from fedllm_app.devices.network import Network
from fedllm_app.run.budget import Cost, most_traffic, over_budget
from fedllm_app.run.settings import RoundSettings, RunSettings
from fedllm_app.server.aggregate import Mean
from fedllm_app.server.intake import Intake
from fedllm_app.server.methods.base import Inputs, Method, StrategySettings
from fedllm_app.server.optimizer import ServerOptimizer
from fedllm_app.server.record import Clock, Recorder
from fedllm_app.server.sampling import sample_cohort
from fedllm_app.wire.codec import WireSettings, decode, dense_bytes, encode, size_of
from fedllm_app.wire.slices import origin_of

log = logging.getLogger("fedllm")
SHORTEST_WAIT_S = 0.01  # a message that may live no time at all is refused


class Transport(Protocol):
    """Carries requests to clients and brings their replies back."""

    def clients(self) -> Mapping[str, int]:
        """Return the number of examples of every client that can be asked now."""

    def submit(self, requests: Sequence[Request], timeout_s: float) -> None:
        """Send requests; whatever is still open from before is given up."""

    def poll(self) -> list[Reply]:
        """Return the replies that have come, after a moment's wait when there are none."""


@dataclass(frozen=True)
class OpenRound:
    """A round between its plan and its step."""

    t: int
    plan: RoundPlan
    method_state: Mapping[str, np.ndarray]
    requests: Sequence[Request]
    mean: Mean
    intake: Intake
    clock: Clock
    bound: Cost


@dataclass(kw_only=True)
class Loop:
    """One run of Algorithm 1.

    Attributes
    ----------
    run, round, strategy, wire : the settings of these namespaces.
    method : what travels, as a plan.
    layout, fingerprint : of the trainable tensors and of the frozen base.
    initial : values the model was built with: what a device holds where a plan says keep.
    optimizer : the dense parameters P and the server's optimizer.
    transport : carries the jobs.
    evaluate : metrics of a flat vector, headline first, or None without test data.
    recorder : writes the run's folder; has restored the state when the run goes on.
    network : the links that simulated seconds are reckoned over, None without a clock.
    told : it was said that masks leave tensors untrained.
    """

    run: RunSettings
    round: RoundSettings
    strategy: StrategySettings
    wire: WireSettings
    method: Method
    layout: ParamLayout
    fingerprint: str
    initial: np.ndarray
    optimizer: ServerOptimizer
    transport: Transport
    evaluate: Callable[[np.ndarray], dict[str, float]] | None
    recorder: Recorder
    network: Network | None = None
    told: bool = False

    def play(self) -> str:
        """Play every round that is left and return why the run ended."""
        progress = self.recorder.progress
        if not self.recorder.resumed:
            clock = Clock()
            evaluation = self.evaluation()
            self.recorder.closing_s = clock.seconds()
            self.recorder.begin(next(iter(evaluation), ""), evaluation)
        self.recorder.begin_rounds()
        ended = ""
        while not ended:
            ended = self.ended() or self.play_round(progress.round + 1)
        evaluated = progress.round == 0 or self.evaluation_due(progress.round)
        self.recorder.finish(ended, {} if evaluated else self.evaluation())
        log.info("ended after round %d: %s", progress.round, ended)
        return ended

    def play_round(self, t: int) -> str:
        """Play round `t`, or return why it is not begun."""
        cohort = sample_cohort(self.transport.clients(), self.round.clients, self.run.seed, t)
        opened = self.open_round(t, cohort)
        if why := over_budget(self.round, self.recorder.spent(), opened.bound):
            return why
        self.transport.submit(opened.requests, self.timeout_s())
        self.record_downloads(opened)
        self.collect(opened)
        self.close_round(opened)
        return ""

    def open_round(self, t: int, cohort: Sequence[str]) -> OpenRound:
        """Plan round `t` for a cohort and encode what goes down.

        Raises
        ------
        FedllmError
            If the cohort is empty.
        """
        if not cohort:
            raise FedllmError("no client has any examples; check data.train and the partition")
        clock = Clock()
        plan, method_state = self.plan(t, cohort)
        self.tell_untrained(t, plan)
        clock.lap("plan")
        requests = self.requests(t, plan)
        clock.lap("encode")
        mean = Mean(self.layout.size, cohort=len(cohort), mean=plan.mean)
        intake = Intake(
            plan, requests, self.layout, self.run.seed, self.wire, mean,
            self.recorder.ledger,
        )  # fmt: skip
        bound = self.bound(plan, requests)
        return OpenRound(t, plan, method_state, requests, mean, intake, clock, bound)

    def close_round(self, opened: OpenRound) -> None:
        """Step on what has come, evaluate where due, and write the round down."""
        t, plan, clock, norm = opened.t, opened.plan, opened.clock, None
        accepted = len(opened.intake.accepted)
        if accepted >= self.round.min_replies:
            gradient_P = opened.mean.mean()
            within = expand(plan.step, self.layout, self.run.seed, t, "")
            self.optimizer.step(gradient_P, within, plan.outside)
            self.recorder.method_state = opened.method_state
            norm = float(np.linalg.norm(gradient_P))
        else:
            least = self.round.min_replies
            log.warning("round %d takes no step: %d replies accepted, round.min-replies is %d",
                        t, accepted, least)  # fmt: skip
        clock.lap("step")
        progress = self.recorder.progress
        progress.round = t
        evaluation = self.evaluation() if self.evaluation_due(t) else {}
        clock.lap("evaluate")
        simulated_s = self.simulated_s(opened)
        progress.late = opened.intake.outstanding(progress.late)
        self.recorder.end_round(t, opened.intake, norm, evaluation, clock, simulated_s)

    def plan(self, t: int, cohort: Sequence[str]) -> tuple[RoundPlan, Mapping[str, np.ndarray]]:
        """Return the method's plan of round `t` and its state after it."""
        inputs = Inputs(self.strategy, self.layout, t, self.optimizer.params, cohort, self.run.seed)
        return self.method.plan(inputs, self.recorder.method_state)

    def tell_untrained(self, t: int, plan: RoundPlan) -> None:
        """Say, once, that masks hold nothing of some tensors."""
        masks = [p.train.idx for p in plan.groups.values() if isinstance(p.train, Positions)]
        names = self.layout.missed(reduce(np.union1d, masks)) if masks and not self.told else []
        if names:
            self.told = True
            log.warning("round %d trains nothing of %d of %d tensors, e.g. %s: the mask holds no "
                        "entry of them; LoRA's B, zero at first, grows into it at a larger "
                        "server.lr", t, len(names), len(self.layout.names), names[0])  # fmt: skip

    def requests(self, t: int, plan: RoundPlan) -> list[Request]:
        """Return one request per group with clients: jobs that share a plan and a payload."""
        requests = []
        for group, client_plan in plan.groups.items():
            clients = [c for c, g in plan.group_of.items() if g == group]
            if not clients:
                continue
            progress, saved = self.recorder.progress, self.recorder.saved
            jobs = tuple(
                Job(t, c, progress.clock, progress.accepted.get(c, -1), saved.get(c, -1))
                for c in clients
            )
            payload, base = self.download(t, group, client_plan)
            words = client_plan.words()
            requests.append(Request(group, words, payload, jobs, self.layout.hash, base))
        return requests

    def download(self, t: int, group: str, plan: ClientPlan) -> tuple[np.ndarray, str]:
        """Return the encoded values that a group receives in round `t`, and upon which base."""
        positions = expand(plan.down, self.layout, self.run.seed, t, group)
        base = base_of(plan, self.fingerprint, self.initial, positions)
        params_P = self.optimizer.params
        payload = encode(
            params_P if positions is None else params_P[positions],
            positions,
            origin_of(self.layout, base),
            value_type=self.wire.down_values,
            block=self.wire.block,
            derived=positions is not None and not isinstance(plan.down, Positions),
            rng=generator(self.run.seed, "down", t, group),
        )
        return payload, base

    def served(self) -> np.ndarray:
        """Return what a device of the served group would hold next, float32 of shape (P,)."""
        t = self.recorder.progress.round + 1
        plan, _ = self.plan(t, ())
        group_plan = plan.groups[plan.served]
        positions = expand(group_plan.down, self.layout, self.run.seed, t, plan.served)
        derived = None if isinstance(group_plan.down, Positions) else positions
        payload, base = self.download(t, plan.served, group_plan)
        update = decode(payload, origin_of(self.layout, base), derived=derived)
        return held_by(group_plan, update.positions, update.values, self.initial)

    def evaluation(self) -> dict[str, float]:
        """Return the metrics of the model that devices would receive next, or {}."""
        return self.evaluate(self.served()) if self.evaluate else {}

    def collect(self, opened: OpenRound) -> None:
        """Fold replies in as they come, until all have or the round's time is over."""
        deadline = time.monotonic() + self.timeout_s()
        while opened.intake.open and time.monotonic() < deadline:
            replies = self.transport.poll()
            opened.clock.lap("wait")
            for reply in replies:
                opened.intake.take(reply)
            opened.clock.lap("fold")
        opened.intake.give_up()

    def record_downloads(self, opened: OpenRound) -> None:
        """Put down every client's download; the clients of a group receive the same bytes."""
        dense = dense_bytes(self.layout.size)
        for request in opened.requests:
            size = size_of(request.payload)
            for job in request.jobs:
                self.recorder.ledger.record(
                    opened.t, job.client, request.group, "down",
                    size.header, size.positions, size.values, dense,
                )  # fmt: skip

    def bound(self, plan: RoundPlan, requests: Sequence[Request]) -> Cost:
        """Return the most that the round can cost, late uploads of earlier ones included."""
        traffic = most_traffic(plan, requests, self.layout, self.run.seed, self.wire)
        down, up = (sum(both[way] for both in traffic.values()) for way in (0, 1))
        seconds = max(self.recorder.progress.slowest_s, self.recorder.closing_s)
        up += sum(most for _, _, most in self.recorder.progress.late)
        return Cost(up, down, seconds, self.network.round_seconds(traffic) if self.network else 0.0)

    def simulated_s(self, opened: OpenRound) -> float | None:
        """Return how long the round lasts by its measured bytes, None without a clock."""
        if self.network is None:
            return None
        seconds = self.network.round_seconds(self.recorder.ledger.traffic())
        # A server hangs up where an update grows beyond what the plan allows.
        return min(seconds, opened.bound.simulated_s)

    def timeout_s(self) -> float:
        """Return the seconds that the round may wait: its time-out, or what is left of the run.

        What follows the wait (step, evaluation, checkpoint) has to fit into the run as well.
        """
        if not self.round.max_seconds:
            return self.round.timeout_s
        left = self.round.max_seconds - self.recorder.seconds() - self.recorder.closing_s
        return min(self.round.timeout_s, max(left, SHORTEST_WAIT_S))

    def ended(self) -> str:
        """Return why no further round is due, or ""."""
        if self.recorder.progress.round >= self.run.rounds:
            return f"all {self.run.rounds} rounds"
        return self.recorder.target_reached(self.round.target, self.round.target_metric)

    def evaluation_due(self, t: int) -> bool:
        """Say whether round `t` ends with an evaluation; the last one always does."""
        every = self.round.evaluate_every
        return t == self.run.rounds or (every > 0 and t % every == 0)
