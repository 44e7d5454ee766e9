"""Replies: checked, decoded, folded into the means; what cannot be is dropped.

Bytes from a client are hostile until decoded. A drop is counted by its reason and named in the
log, and the round goes on with the rest.

Shapes: P trainable parameters, K coordinates sent.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedllm_app.core.errors import WireError
from fedllm_app.core.job import Reply, TrainMetrics
from fedllm_app.core.plan import PARAMS
from fedllm_app.core.state import Pending
from fedllm_app.run.ledger import Ledger
from fedllm_app.server.aggregate import Aggregate
from fedllm_app.server.asked import Asked, Expected, Key
from fedllm_app.server.clip import OFF, Bound, Clip
from fedllm_app.wire.codec import Coded, decode_blocks, dense_bytes, size_of
from fedllm_app.wire.marks import Sent, mask_of
from fedllm_app.wire.slices import Origin
from fedllm_app.wire.unpack import measured

log = logging.getLogger("fedllm")
Weigh = Callable[[Asked, TrainMetrics], int]
MOST_COUNT = 1 << 48  # sums of these stay exact, and far below what a float holds
UNKNOWN = "unknown"  # what the ledger calls a vector that nobody asked for
MOST_NAMES = 200  # characters of a client's names that reach the log
MOST_COSTS = 16  # names of costs that one job may report
SHOWN = 5  # clients that one line of the log names


@dataclass(frozen=True, eq=False)
class Taken:
    """A reply that is what was asked for, with the norm of each of its vectors."""

    asked: Asked
    reply: Reply
    norms: Mapping[str, float]


class Intake:
    """What has come of the jobs that are open.

    Parameters
    ----------
    round : whose step the replies are folded into.
    asked : the open jobs, each with what it was asked for.
    means : the running sums, by name of the vector.
    weigh : the whole weight of a reply in the means; 0 drops it as late.
    ledger : counts the bytes of every reply that came, dropped ones too.
    clip : the bounds of norms in this round; None bounds none.

    Attributes
    ----------
    open : jobs that no reply has come for.
    accepted : metrics of each client whose update is in the mean, or waits for its bound.
    dropped : count of drops by reason.
    failed : of each client whose reply was dropped, the reason and why.
    late : jobs whose upload may still come after they were given up.
    """

    def __init__(
        self,
        round: int,
        asked: Iterable[Asked],
        means: Mapping[str, Aggregate],
        weigh: Weigh,
        ledger: Ledger,
        clip: Clip | None = None,
    ) -> None:
        self.round, self.means, self.weigh, self.ledger = round, means, weigh, ledger
        self.clip = clip or Clip(Bound(OFF))
        self.open: dict[Key, Asked] = {job.key: job for job in asked}
        self.accepted: dict[str, TrainMetrics] = {}
        self.jobs: dict[str, int] = {}  # of each accepted client, the job
        self.dropped: Counter[str] = Counter()
        self.failed: dict[str, tuple[str, str]] = {}
        self.late: list[Asked] = []
        self._waiting: list[Taken] = []
        self._heard: dict[str, int] = {}
        self._groups = {job.job.client: job.group for job in self.open.values()}

    def take(self, reply: Reply) -> None:
        """Fold one reply in, or drop it; one that nobody waits for any more costs its bytes."""
        # A job that never reached its device says nothing of what may still come from there.
        if reply.job <= self.round and (reply.vectors or reply.reason != "late"):
            self._heard[reply.client] = max(reply.job, self._heard.get(reply.client, reply.job))
        asked = self.open.pop((reply.job, reply.client), None)
        if asked is None:
            log.info("client %s: reply to job %s is not awaited", reply.client, reply.job)
            if reply.job < self.round:  # late, and it has travelled
                self._record(reply, accepted=False)
            return
        if not reply.vectors:
            self._drop(asked, reply.reason, reply.error)
            return
        try:
            updates, weight = self._checked(asked, reply)
        except WireError as error:
            self._record(reply, accepted=False)
            self._drop(asked, error.reason, str(error))
            return
        self.accepted[reply.client], self.jobs[reply.client] = reply.metrics, reply.job
        norms = {name: measured(update.values)[1] for name, update in updates.items()}
        taken = Taken(asked, reply, norms)
        if self.clip.waits(list(norms)):
            self._waiting.append(taken)  # as its bytes: decoded it would take more
        else:
            self._fold(taken, updates, weight)

    def close(self) -> None:
        """Fold in what waited for the bound of this round: no further reply is in its mean."""
        self.clip.close([taken.norms for taken in self._waiting])
        for taken in self._waiting:
            self._fold(taken, *self._checked(taken.asked, taken.reply))
        self._waiting.clear()
        if clipped := {c: t for c, t in sorted(self.clip.clipped.items()) if c in self.accepted}:
            named = [f"client {c} ({t:.3g} times the bound)" for c, t in clipped.items()]
            more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
            log.info("round %d, scaled down by round.clip: %s%s", self.round,
                     ", ".join(named[:SHOWN]), more)  # fmt: skip

    def give_up(self) -> None:
        """Drop as late every job that is still open."""
        self.late = list(self.open.values())
        for asked in self.late:
            self._drop(asked, "late", "no reply within round.timeout-s")
        self.open.clear()

    def outstanding(self, earlier: Sequence[Pending]) -> tuple[Pending, ...]:
        """Return the uploads that may still come after their round.

        Parameters
        ----------
        earlier : the same before this round. A client answers in order: once it has answered a
            job, nothing of that one or of an older one is to come.
        """
        owed = [late for late in earlier if late[1] > self._heard.get(late[0], -1)]
        return (*owed, *((a.job.client, a.job.id, a.most_bytes) for a in self.late))

    def remembered(self, accepted: Mapping[str, int]) -> dict[str, int]:
        """Return the last accepted jobs without those of clients that kept nothing of them."""
        gone = {client for client, (reason, _) in self.failed.items() if reason == "forgotten"}
        return {client: job for client, job in accepted.items() if client not in gone}

    def train_loss(self) -> float | None:
        """Return the mean training loss per unit over accepted replies."""
        metrics = [self.accepted[client] for client in sorted(self.accepted)]
        units = sum(m.units for m in metrics)
        return sum(m.loss_sum for m in metrics) / units if units else None

    def _checked(self, asked: Asked, reply: Reply) -> tuple[dict[str, Coded], int]:
        """Return the vectors of a reply and its weight, or raise WireError."""
        check_metrics(reply.metrics)
        if reply.vectors.keys() != asked.vectors.keys():
            raise WireError(
                f"vectors {str(sorted(reply.vectors))[:MOST_NAMES]} came; expected "
                f"{sorted(asked.vectors)}"
            )
        updates = {
            name: decoded(expected, asked.origin, reply.vectors[name])
            for name, expected in asked.vectors.items()
        }
        weight = self.weigh(asked, reply.metrics)
        if not weight:
            raise WireError("it is too old for this round's step", "late")
        for name, update in updates.items():
            self.means[name].check(update.positions, update.values)
        return updates, weight

    def _fold(self, taken: Taken, updates: Mapping[str, Coded], weight: int) -> None:
        """Fold all vectors of a reply in, scaled down where they are too large, or none of them."""
        reply, client = taken.reply, taken.reply.client
        scales = self.clip.scales(client, taken.norms)
        drop = self.clip.bound.drop and client in self.clip.clipped
        self._record(reply, accepted=not drop)
        if drop:
            del self.accepted[client], self.jobs[client]
            times = self.clip.clipped[client]
            why = f"the norm of its update is {times:.3g} times the bound of round.clip"
            self._drop(taken.asked, "too-large", why)
            return
        for name, update in updates.items():
            self.means[name].fold(update.positions, update.values, weight, scales[name])

    def _record(self, reply: Reply, accepted: bool) -> None:
        for name, payload in reply.vectors.items():
            try:
                size = size_of(payload)
                parts = (size.header, size.positions, size.values)
            except WireError:
                parts = (0, 0, int(payload.size))
            self.ledger.record(
                self.round,
                reply.client,
                self._groups.get(reply.client, ""),
                "up",
                *parts,
                dense_bytes=dense_bytes(self.means[PARAMS].P) if name == PARAMS else 0,
                accepted=accepted,
                vector=name if name in self.means else UNKNOWN,
            )

    def _drop(self, asked: Asked, reason: str, why: str) -> None:
        client, id_ = asked.job.client, asked.job.id
        self.dropped[reason] += 1
        self.failed[client] = reason, why
        log.warning("client %s, round %d: dropped (%s): %s", client, id_, reason, why)


def decoded(expected: Expected, origin: Origin, payload: np.ndarray) -> Coded:
    """Return the coordinates of one vector of a reply.

    Raises
    ------
    WireError
        If it is not what was asked for.
    """
    if payload.size > expected.most_bytes:
        raise WireError(f"update has {payload.size} bytes; expected at most {expected.most_bytes}")
    within, chosen = expected.within, expected.chosen
    update = decode_blocks(
        payload,
        origin,
        expect="explicit" if chosen else "all" if within is None else "derived",
        derived=None if chosen else within,
        count=expected.count if chosen else None,
        value_type=expected.value_type,
    )
    if chosen and update.positions is not None:
        _check_inside(update.positions, expected, origin.P)
    return update


def _check_inside(positions: Sent, expected: Expected, P: int) -> None:
    """Raise WireError unless positions are among those allowed, and hold those always sent."""
    within, always = expected.within, expected.always
    if within is None and always is None:
        return
    sent_P = mask_of(positions, P)
    if always is not None and not sent_P[always].all():
        raise WireError("positions that the plan sends whole are missing")
    if within is not None:
        for where in (within, always):
            if where is not None:
                sent_P &= ~mask_of(where, P)
        if sent_P.any():
            raise WireError("positions outside those that the plan allows")


def check_metrics(metrics: TrainMetrics) -> None:
    """Raise WireError if a client's sums are such that no training gives them."""
    for name in ("loss_sum", "train_s"):
        if not math.isfinite(value := getattr(metrics, name)):
            raise WireError(f"{name} is {value!r}; expected a number", "non-finite")
    for name in ("units", "examples", "steps", "train_s"):
        if not 0 <= getattr(metrics, name) < MOST_COUNT:
            raise WireError(f"{name} is not in 0 to 2^48")
    if len(metrics.costs) > MOST_COSTS:
        raise WireError(f"{len(metrics.costs)} costs are named; expected at most {MOST_COSTS}")
    for name, value in metrics.costs.items():
        if not 0 <= value < MOST_COUNT:  # no number is neither
            raise WireError(f"cost {name[:40]!r} is {value!r}; expected 0 to 2^48", "non-finite")
