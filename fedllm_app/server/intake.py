"""Replies of one round: checked, decoded, folded into the mean; what cannot be is dropped.

Bytes from a client are hostile until decoded. A drop is counted by its reason and named in the
log, and the round goes on with the rest.

Shapes: P trainable parameters, K coordinates sent.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from fedllm_app.core.errors import WireError
from fedllm_app.core.job import Job, Reply, Request, TrainMetrics
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import ClientPlan, RoundPlan, TopK
from fedllm_app.run.budget import upload_bound, upload_support
from fedllm_app.run.ledger import Ledger
from fedllm_app.server.aggregate import Mean
from fedllm_app.wire.codec import Update, WireSettings, decode, dense_bytes, max_bytes, size_of
from fedllm_app.wire.slices import origin_of

log = logging.getLogger("fedllm")
Late = tuple[str, int, int]  # client, job, the most bytes that its upload has
MOST_COUNT = 1 << 48  # sums of these stay exact, and far below what a float holds


class Intake:
    """What has come of one round.

    Parameters
    ----------
    plan, requests : of the round.
    layout, seed : to expand supports that cost no bytes.
    wire : value type and block of the uploads.
    mean : the running sum.
    ledger : counts the bytes of every reply that came, dropped ones too.

    Attributes
    ----------
    accepted : metrics of each client whose update is in the mean.
    dropped : count of drops by reason.
    late : jobs whose upload may still come after its round.
    """

    def __init__(
        self,
        plan: RoundPlan,
        requests: Sequence[Request],
        layout: ParamLayout,
        seed: int,
        wire: WireSettings,
        mean: Mean,
        ledger: Ledger,
    ) -> None:
        self.plan, self.layout, self.seed, self.wire = plan, layout, seed, wire
        self.mean, self.ledger = mean, ledger
        self.base = {job.client: r.fingerprint for r in requests for job in r.jobs}
        self.round = requests[0].jobs[0].id if requests else 0
        self.open: dict[str, Job] = {job.client: job for r in requests for job in r.jobs}
        self.accepted: dict[str, TrainMetrics] = {}
        self.dropped: Counter[str] = Counter()
        self.late: list[Job] = []
        self._heard: dict[str, int] = {}

    def take(self, reply: Reply) -> None:
        """Fold one reply in, or drop it; one that nobody waits for any more costs its bytes."""
        if reply.job <= self.round:
            self._heard[reply.client] = max(reply.job, self._heard.get(reply.client, reply.job))
        job = self.open.get(reply.client)
        if job is None or job.id != reply.job:
            log.info("client %s: reply to job %s is not awaited", reply.client, reply.job)
            if reply.update is not None and reply.job < self.round:  # late, and it has travelled
                self._record(reply.client, reply.update, accepted=False)
            return
        del self.open[reply.client]
        if reply.update is None:
            self._drop(job, reply.reason, reply.error)
            return
        try:
            update = self._decode(job, reply.update, reply.metrics)
            self.mean.fold(update.positions, update.values)
        except WireError as error:
            self._record(job.client, reply.update, accepted=False)
            self._drop(job, error.reason, str(error))
            return
        self._record(job.client, reply.update, accepted=True)
        self.accepted[job.client] = reply.metrics

    def give_up(self) -> None:
        """Drop as late every job that is still open."""
        self.late = list(self.open.values())
        for job in self.late:
            self._drop(job, "late", "no reply within round.timeout-s")
        self.open.clear()

    def outstanding(self, earlier: Iterable[Late]) -> list[Late]:
        """Return the uploads that may still come after their round.

        Parameters
        ----------
        earlier : the same before this round. A client answers in order: once it has answered a
            job, nothing of that one or of an older one is to come.
        """
        owed = [late for late in earlier if late[1] > self._heard.get(late[0], -1)]
        for job in self.late:
            most = upload_bound(self.plan_of(job), self.layout, job, self.seed, self.wire)
            owed.append((job.client, job.id, most))
        return owed

    def train_loss(self) -> float | None:
        """Return the mean training loss per unit over accepted replies."""
        metrics = [self.accepted[client] for client in sorted(self.accepted)]
        units = sum(m.units for m in metrics)
        return sum(m.loss_sum for m in metrics) / units if units else None

    def _decode(self, job: Job, payload: np.ndarray, metrics: TrainMetrics) -> Update:
        check_metrics(metrics)
        plan, P = self.plan_of(job), self.layout.size
        chosen = isinstance(plan.up, TopK)
        within, always, count = upload_support(plan, self.layout, job, self.seed)
        bound = max_bytes(count, P, self.wire.up_values, self.wire.block, explicit=chosen)
        if payload.size > bound:
            raise WireError(f"update has {payload.size} bytes; expected at most {bound}")
        update = decode(
            payload,
            origin_of(self.layout, self.base[job.client]),
            expect="explicit" if chosen else "all" if within is None else "derived",
            derived=None if chosen else within,
            count=count if chosen else None,
            value_type=self.wire.up_values,
        )
        if chosen and within is not None and update.positions is not None:
            if not np.isin(update.positions, within, assume_unique=True).all():
                raise WireError("positions outside those that the plan allows")
        if always is not None and update.positions is not None:
            if not np.isin(always, update.positions, assume_unique=True).all():
                raise WireError("positions that the plan sends whole are missing")
        return update

    def plan_of(self, job: Job) -> ClientPlan:
        """Return the plan that a job follows."""
        return self.plan.groups[self.plan.group_of[job.client]]

    def _record(self, client: str, payload: np.ndarray, accepted: bool) -> None:
        try:
            size = size_of(payload)
            parts = (size.header, size.positions, size.values)
        except WireError:
            parts = (0, 0, int(payload.size))
        self.ledger.record(
            self.round,
            client,
            self.plan.group_of.get(client, ""),
            "up",
            *parts,
            dense_bytes=dense_bytes(self.layout.size),
            accepted=accepted,
        )

    def _drop(self, job: Job, reason: str, why: str) -> None:
        self.dropped[reason] += 1
        log.warning("client %s, round %d: dropped (%s): %s", job.client, job.id, reason, why)


def check_metrics(metrics: TrainMetrics) -> None:
    """Raise WireError if a client's sums are such that no training gives them."""
    for name in ("loss_sum", "train_s"):
        if not math.isfinite(value := getattr(metrics, name)):
            raise WireError(f"{name} is {value!r}; expected a number", "non-finite")
    for name in ("units", "examples", "steps", "train_s"):
        if not 0 <= getattr(metrics, name) < MOST_COUNT:
            raise WireError(f"{name} is not in 0 to 2^48")
