"""Algorithm 1 (Raje 2024) for any method: sample, send, fold the replies in, step, evaluate.

Knows no Flower. A transport carries requests to clients and brings replies back; the method says
what travels; codec, exact mean and optimizer are called by name. Everything random comes from
(seed, round), so a run that was killed goes on from its checkpoint to the same bits. P is the
number of trainable parameters.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fedllm_app.core.counts import eligible
from fedllm_app.core.effort import Effort
from fedllm_app.core.errors import FedllmError
from fedllm_app.core.plan import PARAMS, Work
from fedllm_app.core.state import RunState
from fedllm_app.run.clock import Clock
from fedllm_app.run.record import Recorder
from fedllm_app.server.arrivals import Arrivals, AsTheyCome, ByClock
from fedllm_app.server.asked import Asked, Key, asked_again, asked_for
from fedllm_app.server.checked import MOST_COUNT
from fedllm_app.server.counting import Counting
from fedllm_app.server.intake import CLOSED, UNUSED
from fedllm_app.server.limits import Limits
from fedllm_app.server.measuring import Evaluator
from fedllm_app.server.methods.base import Means
from fedllm_app.server.opened import OpenRound, advanced, record_downloads, unfounded, wasted
from fedllm_app.server.optimizer import ServerOptimizer
from fedllm_app.server.pacing.base import Pacing
from fedllm_app.server.pacing.free import first_free
from fedllm_app.server.planning import Planner, Serving
from fedllm_app.server.reading import ENDED, Epochs, Reading
from fedllm_app.server.transport import Transport

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
    evaluator : measures the model that devices would receive next.
    recorder : writes the run's folder.
    min_replies : accepted replies below which a round takes no step.
    counting : how replies are weighed, bounded and combined.
    effort : what a job of this work on so many examples computes at most.
    schedule : what the server's learning rate is multiplied by at a step.
    reading : how clients go through their examples.
    simulated : the devices are, so that a clock may say which reply is first.
    waiting : jobs that are open from earlier rounds, under a policy that waits on them.
    arrivals : says which reply is next.
    """

    state: RunState
    resumed: bool
    planner: Planner
    pacing: Pacing
    limits: Limits
    optimizer: ServerOptimizer
    transport: Transport
    evaluator: Evaluator
    recorder: Recorder
    min_replies: int = 1
    counting: Counting = field(default_factory=Counting)
    effort: Callable[[Work, int], Effort] = lambda work, examples: Effort(*3 * (MOST_COUNT,))
    schedule: Callable[[int], float] = lambda step: 1.0
    reading: Reading = field(default_factory=Epochs)
    simulated: bool = False
    waiting: dict[Key, Asked] = field(default_factory=dict)
    arrivals: Arrivals = field(init=False)

    def __post_init__(self) -> None:
        network, pacing = self.limits.network, self.pacing
        self.arrivals = AsTheyCome(self.transport, pacing.lasts_s)
        if self.simulated and network and pacing.ordered:
            self.arrivals = ByClock(self.transport, network, pacing.lasts_s, pacing.waits_on)

    def play(self) -> str:
        """Play every round that is left and return why the run ended."""
        if not self.resumed:
            self.begin()
        self.recorder.begin_rounds(self.state.round)
        ended = ""
        while not ended:
            ended = self.limits.ended(self.state) or self.play_round()
        evaluation = {} if self.state.evaluated == self.state.round else self.evaluation()
        self.state = replace(self.state, finished=ended)
        self.recorder.finish(self.state, evaluation, self.optimizer.tensors())
        if words := wasted(self.state.dropped, len(self.waiting)):
            log.info(words)
        log.info("ended after round %d: %s", self.state.round, ended)
        return ended

    def play_round(self) -> str:
        """Play the next round, or return why it is not begun (Raje 2024, Algorithm 1)."""
        # 1. Sample a cohort of the clients that are there.
        clients = self.reading.left(there := self.transport.clients(), self.state.progress)
        if there and not (clients or self.waiting or self.state.open):
            return ENDED
        self.reopen(clients)
        cohort = first_free(self.pacing, self.transport, self.state, clients, self.waiting)
        # 2. Choose what each of them receives, trains and returns, and encode what goes down.
        opened = self.open_round(cohort, clients)
        # 3. Send it. Every device trains on its own data and sends back what the plan says.
        if why := self.give(opened, cohort):
            return why
        # 4. Fold each reply into the mean as it comes.
        self.collect(opened)
        # 5. Step the server's optimizer on the mean, evaluate, and write the round down.
        self.close_round(opened)
        return ""

    def begin(self) -> None:
        """Evaluate the model before round 1 and write the first checkpoint."""
        self.evaluator.wait()
        clock, evaluation = Clock(), self.evaluation()
        self.limits.closing_s = clock.seconds()
        self.recorder.begin(next(iter(evaluation), ""), evaluation)
        self.state = self.recorder.checkpoint(self.state, self.optimizer.tensors())

    def reopen(self, clients: Mapping[str, int]) -> None:
        """Play again, once, the jobs that were open at the checkpoint that the run goes on from."""
        planner = self.planner
        for one in () if self.waiting else self.state.open:
            jobs = asked_again(one.request, planner.layout, planner.seed, planner.wire)
            jobs = [
                replace(self.sized(job, clients), request=one.request, start_s=start)
                for job, start in zip(jobs, one.starts, strict=True)
            ]
            self.arrivals.give([one.request], jobs, self.limits.timeout_s(self.state))
            self.waiting |= {job.key: job for job in jobs}

    def open_round(self, cohort: Sequence[str], clients: Mapping[str, int]) -> OpenRound:
        """Plan the next round.

        Raises
        ------
        FedllmError
            If the cohort is empty.
        """
        if not cohort and not self.waiting:
            raise FedllmError("no client has any examples; check data.train and the partition")
        clock, planner, state = Clock(), self.planner, self.state
        among = sorted(clients) if self.pacing.refills else cohort
        profiles, N = self.transport.profiles(), len(eligible(clients))
        planned = planner.plan(state, self.optimizer.params, among, profiles, N)
        planner.log_untrained(planned)
        clock.lap("plan")
        self.arrivals.begin(state.spent.simulated_s, self.limits.round.max_simulated_s)
        open, ledger = [*self.waiting.values()], self.recorder.ledger
        who = {c: clients.get(c, 1) for c in {*among, *(job.job.client for job in open)}}
        intake = self.counting.intake(state, planned, self.pacing, open, who, len(cohort), ledger)
        return OpenRound(planned, intake, clock, clients)

    def give(self, opened: OpenRound, cohort: Sequence[str]) -> str:
        """Give clients their jobs, or return the budget that does not allow it."""
        planner, intake, arrivals = self.planner, opened.intake, self.arrivals
        state, refills = advanced(self.state, intake), self.pacing.refills
        ids = dict.fromkeys(cohort, opened.t)
        if refills:
            ids = {client: state.given + number for number, client in enumerate(cohort, start=1)}
        requests, downloads = planner.requests(state, opened.planned, ids)
        opened.clock.lap("encode")
        asked: list[Asked] = []
        for request in requests:
            plan = opened.planned.plan.groups[request.group]
            for job in asked_for(request, plan, planner.layout, planner.seed, planner.wire):
                again = request if arrivals.clocked and self.pacing.waits_on else None
                job = replace(job, request=again, start_s=arrivals.now)
                asked.append(self.sized(job, opened.clients))
        open, ledger = [*intake.open.values()], self.recorder.ledger
        bound = self.limits.bound(self.state, asked, open, waits=not refills)
        if self.pacing.ordered:
            until_s = arrivals.bound_s([*open, *asked], self.pacing.wanted(intake))
            bound = replace(bound, simulated_s=0.0 if opened.bound else until_s)
        if why := self.limits.over_budget(self.state, ledger, bound, intake.amounts):
            return why
        if opened.bound is None:
            opened.bound, opened.downloads = bound, downloads
        intake.add(asked)
        self.state = replace(self.state, given=self.state.given + len(asked) * refills)
        arrivals.give(requests, asked, self.limits.timeout_s(self.state))
        record_downloads(ledger, opened.t, requests, planner.layout.size)
        return ""

    def sized(self, job: Asked, clients: Mapping[str, int]) -> Asked:
        """Return a job with what it computes, and the rows that it uses up."""
        work = job.plan.work
        effort = self.effort(work, clients.get(job.job.client, 1))
        amount = self.limits.amount(effort, job.trains, self.planner.layout)
        return replace(job, steps=effort.steps, amount=amount, rows=self.reading.rows(work))

    def collect(self, opened: OpenRound) -> None:
        """Fold replies in as they come, until the policy steps or the round's time is over."""
        intake, clock, arrivals = opened.intake, opened.clock, self.arrivals
        while intake.open and (wanted := self.pacing.wanted(intake)) > 0 and not arrivals.over:
            reply = arrivals.next(intake, wanted)
            clock.lap("wait")
            if reply is not None:
                intake.take(reply)
            clock.lap("fold")
            if self.pacing.refills and self.pacing.wanted(intake) > 0 and not opened.refused:
                self.refill(opened)
        if not self.pacing.waits_on:
            intake.give_up(why=CLOSED, owed=not arrivals.clocked)
            for reply in arrivals.rest():
                intake.take(reply)
        intake.close()

    def refill(self, opened: OpenRound) -> None:
        """Give those that are free a job at once, from the model of the open round."""
        busy, failed = ({c for _, c in jobs} for jobs in (opened.intake.open, opened.intake.failed))
        clients = self.reading.left(opened.clients, advanced(self.state, opened.intake).progress)
        if cohort := self.pacing.ask(self.state, clients, busy, failed):
            opened.refused = self.give(opened, cohort)
            if opened.refused:
                log.info("round %d gives no more jobs: %s", opened.t, opened.refused)

    def close_round(self, opened: OpenRound) -> None:
        """Step on what has come, evaluate where due, and write the round down."""
        intake, clock, arrivals = opened.intake, opened.clock, self.arrivals
        norm, self.state = self.step(opened)
        intake.give_up(unfounded(self.state, intake), UNUSED, owed=not arrivals.clocked)
        self.waiting = dict(intake.open)
        clock.lap("step")
        evaluation = self.evaluation() if self.limits.evaluation_due(opened.t) else {}
        clock.lap("evaluate")
        now, lasted_s = self.state.spent.simulated_s, None
        if arrivals.clocked:
            now, lasted_s = arrivals.now, arrivals.now - now
        elif not self.pacing.ordered and opened.bound is not None:
            traffic = self.recorder.ledger.traffic()
            lasted_s = self.limits.simulated_s(traffic, intake.amounts, opened.bound)
            now += lasted_s or 0.0
        waited_s = 0.0 if self.pacing.refills else lasted_s or 0.0
        opened.used = self.limits.usage(self.recorder.ledger, intake.amounts, waited_s)
        self.state = opened.closed(self.state, now, self.counting.most_units)
        ended = self.reading.ended(opened.clients, self.state.progress)
        curves = opened.curves(norm, self.optimizer)
        outcome = opened.outcome(norm, evaluation, lasted_s, self.pacing.waits_on, ended, curves)
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
        clock = state.clock + intake.longest()
        if len(intake.accepted) < self.min_replies:
            log.warning("round %d takes no step: %d replies accepted, round.min-replies is %d",
                        opened.t, len(intake.accepted), self.min_replies)  # fmt: skip
            return None, state.without_step(clock, intake.dropped, len(intake.accepted))
        means: Means = {name: mean.mean() for name, mean in intake.means.items() if mean.n}
        method_state = planned.method_state
        if before_step := self.planner.method.before_step:
            inputs = replace(planned.inputs, replies=len(intake.accepted))
            means, method_state = before_step(inputs, method_state, means)
        rate = self.schedule(state.steps)
        self.optimizer.step(means[PARAMS], planned.step, planned.plan.outside, rate)
        state = advanced(state, intake)
        return float(np.linalg.norm(means[PARAMS])), replace(
            state,
            round=opened.t,
            clock=clock,
            steps=state.steps + 1,
            idle=0,
            reasons={},
            method=method_state,
            downloads=opened.downloads,
        )

    def served(self) -> Serving:
        """Return the model that a device of the served group would receive next."""
        return self.planner.served(self.state, self.optimizer.params)

    def evaluation(self) -> dict[str, float]:
        """Note the metrics of the model that devices would receive next and return them, or {}."""
        found = self.evaluator.measure(self.state, self.served)
        self.state = self.state.with_evaluation(found)
        return found
