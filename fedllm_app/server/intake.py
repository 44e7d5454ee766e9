"""Replies: checked, decoded, folded into the means; what cannot be is dropped.

Bytes from a client are hostile until decoded. A drop is counted by its reason and named in the
log, and the round goes on with the rest.

Shapes: P trainable parameters, K coordinates sent.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum

from fedllm_app.core.errors import WireError
from fedllm_app.core.job import Reply, TrainMetrics
from fedllm_app.core.plan import PARAMS
from fedllm_app.core.state import Pending
from fedllm_app.core.units import listed
from fedllm_app.run.ledger import Ledger
from fedllm_app.server.aggregate import Aggregate
from fedllm_app.server.asked import Asked, Key
from fedllm_app.server.checked import check_metrics, decoded
from fedllm_app.server.clip import OFF, Bound, Clip
from fedllm_app.wire.codec import Coded, dense_bytes, size_of
from fedllm_app.wire.unpack import measured

log = logging.getLogger("fedllm")
Weigh = Callable[[Asked, TrainMetrics], int]
UNKNOWN = "unknown"  # what the ledger calls a vector that nobody asked for
MOST_NAMES = 200  # characters of a client's names that reach the log
SHOWN = 5  # clients that one line of the log names
TIMED_OUT = "no reply within round.timeout-s"
CLOSED = "the round was closed before its reply came"
UNUSED = "it goes on from a reply that was not used"


@dataclass(frozen=True, eq=False)
class Taken:
    """A reply that is what was asked for, with the norm of each of its vectors."""

    asked: Asked
    reply: Reply
    norms: Mapping[str, float]

    @property
    def first(self) -> bool:
        """Whether its device answers for the first time."""
        return self.asked.job.state_from < 0


class Intake:
    """What has come of the jobs that are open.

    Parameters
    ----------
    round : whose step the replies are folded into.
    asked : the open jobs, each with what it was asked for.
    means : the running sums, by name of the vector.
    weigh : the whole weight of a reply in the means; 0 drops it as stale.
    ledger : counts the bytes of every reply that came, dropped ones too.
    clip : the bounds of norms in this round; None bounds none.
    in_full : what a reply would weigh if it were fresh, by which the means are divided; None is
        `weigh`.
    first : id of the first job that this round can give; None is the round.

    Attributes
    ----------
    open : jobs that no reply has come for.
    accepted : metrics of each job whose update is in the mean, or waits for its bound.
    rows : of each accepted job, the examples of its stream that it used up.
    ages : of each accepted job, how many steps the server took since its plan was made.
    dropped : count of drops by reason.
    failed : of each job whose reply was dropped, the reason and why.
    late : jobs whose upload may still come after they were given up.
    amounts : what each client was asked to compute last (`Network.amount`).
    """

    def __init__(
        self,
        round: int,
        asked: Iterable[Asked],
        means: Mapping[str, Aggregate],
        weigh: Weigh,
        ledger: Ledger,
        clip: Clip | None = None,
        in_full: Weigh | None = None,
        first: int | None = None,
    ) -> None:
        self.round, self.means, self.weigh, self.ledger = round, means, weigh, ledger
        self.clip = clip or Clip(Bound(OFF))
        self._in_full = in_full or weigh
        self.first = self._newest = round if first is None else first
        self.open: dict[Key, Asked] = {}
        self.accepted: dict[Key, TrainMetrics] = {}
        self.rows: dict[Key, int] = {}
        self.ages: dict[Key, int] = {}
        self.dropped: Counter[str] = Counter()
        self.failed: dict[Key, tuple[str, str]] = {}
        self.late: list[Asked] = []
        self._waiting: list[Taken] = []
        self._heard: dict[str, int] = {}
        self._groups: dict[str, str] = {}
        self._lengths: list[float] = []  # of the accepted updates, as they are weighed
        self._most: dict[Key, int] = {}
        self.amounts: dict[str, float] = {}
        self.add(asked)

    @property
    def jobs(self) -> dict[str, int]:
        """Of each client with an accepted job, the last one's id."""
        return {client: id_ for id_, client in self.accepted}

    def longest(self) -> int:
        """Return the most local steps of an accepted job, none believed beyond what was asked."""
        found = (min(m.steps, self._most[key]) for key, m in self.accepted.items())
        return max(found, default=0)

    def add(self, asked: Iterable[Asked]) -> None:
        """Wait for the replies to these jobs, too."""
        for one in asked:
            self.open[one.key] = one
            self._most[one.key] = one.steps
            self._groups[one.job.client], self.amounts[one.job.client] = one.group, one.amount
            self._newest = max(self._newest, one.job.id)

    def take(self, reply: Reply) -> None:
        """Fold one reply in, or drop it; one that nobody waits for any more costs its bytes."""
        # A job that never reached its device says nothing of what may still come from there.
        if reply.job <= self._newest and (reply.vectors or reply.reason != "late"):
            self._heard[reply.client] = max(reply.job, self._heard.get(reply.client, reply.job))
        asked = self.open.pop((reply.job, reply.client), None)
        if asked is None:
            log.info("client %s: reply to job %s is not awaited", reply.client, reply.job)
            late = (a.key for a in self.late)
            if reply.job < self.first or (reply.job, reply.client) in late:  # it has travelled
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
        self.accepted[asked.key], self.ages[asked.key] = reply.metrics, self.round - asked.round
        self.rows[asked.key] = asked.rows or reply.metrics.examples
        norms = {name: measured(update.values)[1] for name, update in updates.items()}
        taken = Taken(asked, reply, norms)
        if self.clip.waits(list(norms)):
            self._waiting.append(taken)  # as its bytes: decoded it would take more
        else:
            self._fold(taken, updates, weight)

    def close(self) -> None:
        """Fold in what waited for the bound of this round: no further reply is in its mean."""
        self.clip.close([(taken.norms, taken.first) for taken in self._waiting])
        for taken in self._waiting:
            self._fold(taken, *self._checked(taken.asked, taken.reply))
        self._waiting.clear()
        if clipped := {c: t for c, t in sorted(self.clip.clipped.items()) if c in self.accepted}:
            named = [f"client {c} ({t:.3g} times the bound)" for (_, c), t in clipped.items()]
            log.info("round %d, scaled down by round.clip: %s", self.round, listed(named, SHOWN))

    def give_up(
        self, keys: Iterable[Key] | None = None, why: str = TIMED_OUT, *, owed: bool = True
    ) -> None:
        """Drop as late these of the jobs that are open.

        Parameters
        ----------
        keys : of the jobs; None is all of them.
        owed : their uploads may still come, and then cost their bytes.
        """
        gone = [self.open.pop(key) for key in ([*self.open] if keys is None else list(keys))]
        self.late += gone if owed else []
        for asked in gone:
            self._drop(asked, "late", why, told=why == CLOSED)
        if gone and why == CLOSED:  # as it is meant to be, for many: one line
            named = listed(sorted(f"client {one.job.client}" for one in gone), SHOWN)
            log.info("round %d was closed before the replies of %s", self.round, named)

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
        gone = {client for (_, client), (reason, _) in self.failed.items() if reason == "forgotten"}
        return {client: job for client, job in accepted.items() if client not in gone}

    def agreement(self) -> float | None:
        """Return the mean cosine between two updates of the round, each pair weighed by its norms.

        Of the sum S of updates, |S|^2 less the squares of all is the sum of the products of all
        pairs: no reply is needed for it. What was not sent counts as zero. None of fewer than two
        updates, or where replies are not summed.
        """
        squares = fsum(n * n for n in self._lengths)
        pairs = fsum(self._lengths) ** 2 - squares
        if len(self._lengths) < 2 or pairs <= 0:
            return None
        length = self.means[PARAMS].length()
        return None if length is None else (length * length - squares) / pairs

    def units(self, most: Callable[[str], int]) -> int:
        """Return the units of all accepted jobs, each at most what its client can have seen."""
        return sum(min(m.units, most(client)) for (_, client), m in self.accepted.items())

    def train_loss(self) -> float | None:
        """Return the mean training loss per unit over accepted replies."""
        metrics = [self.accepted[key] for key in sorted(self.accepted)]
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
            raise WireError("its model is older than round.most-stale allows", "stale")
        for name, update in updates.items():
            self.means[name].check(update.positions, update.values)
        return updates, weight

    def _fold(self, taken: Taken, updates: Mapping[str, Coded], weight: int) -> None:
        """Fold all vectors of a reply in, scaled down where they are too large, or none of them."""
        reply, key = taken.reply, taken.asked.key
        scales = self.clip.scales(key, taken.norms, taken.first)
        drop = key in self.clip.dropped
        self._record(reply, accepted=not drop)
        if drop:
            del self.accepted[key], self.ages[key]
            times = self.clip.clipped[key]
            why = f"the norm of its update is {times:.3g} times the bound of round.clip"
            self._drop(taken.asked, "too-large", why)
            return
        self._lengths.append(weight * scales[PARAMS] * taken.norms[PARAMS])
        full = self._in_full(taken.asked, reply.metrics)
        for name, update in updates.items():
            self.means[name].fold(update.positions, update.values, weight, scales[name], full)

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

    def _drop(self, asked: Asked, reason: str, why: str, told: bool = False) -> None:
        self.dropped[reason] += 1
        self.failed[asked.key] = reason, why
        client, round_ = asked.job.client, asked.round
        if not told:
            log.warning("client %s, round %d: dropped (%s): %s", client, round_, reason, why)
