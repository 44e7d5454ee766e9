"""Which reply is next: as the transport brings them, or in the order of a simulated clock.

Where devices are simulated and their links or local steps take simulated time, who is late is
decided by that time. The order is then that of (arrival, client), whatever the order in which
workers return, and so a run is the same bits again. A job begins at its `start_s` and arrives after
`Network.participant_seconds`. Before it was trained, its arrival is known between two bounds, since
only the bytes of its upload are not: a reply is next once no other job can come before it.

A job that fails takes its download, its steps and a message without bytes. A device whose reply is
late is told so: it sends none, and is free.
"""

import math
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from fedllm_app.core.job import Reply, Request
from fedllm_app.devices.network import Network
from fedllm_app.server.asked import Asked, Key
from fedllm_app.server.intake import CLOSED, TIMED_OUT, Intake
from fedllm_app.server.transport import Transport


class Arrivals(Protocol):
    """What the loop asks for the next reply.

    Attributes
    ----------
    clocked : replies come by the simulated clock.
    now : the simulated second in which the latest reply came.
    over : the round's time is over: no further reply is in it.
    """

    clocked: bool
    now: float
    over: bool

    def begin(self, now: float, ends_s: float) -> None:
        """Begin a round.

        Parameters
        ----------
        now, ends_s : simulated second in which it begins, and after which the run does nothing; 0
            for no end.
        """

    def bound_s(self, asked: Sequence[Asked], wanted: int) -> float:
        """Return how long a round lasts at most until so many of its jobs have answered."""

    def give(self, requests: Sequence[Request], asked: Sequence[Asked], timeout_s: float) -> None:
        """Send requests; each of their jobs has so many seconds of wall-clock."""

    def next(self, intake: Intake, wanted: int) -> Reply | None:
        """Return the next reply; None where the open jobs have to be looked at anew.

        Parameters
        ----------
        wanted : replies that the step still waits for.
        """

    def rest(self) -> Iterable[Reply]:
        """Return what came and was not taken, of a round whose open jobs were given up."""


class AsTheyCome:
    """Replies in the order in which they come.

    Parameters
    ----------
    transport : brings them.
    lasts_s : seconds that a round lasts at most beside its time-out, 0 for no such limit.
    """

    clocked, over, now = False, False, 0.0

    def __init__(self, transport: Transport, lasts_s: float = 0.0) -> None:
        self._transport, self._lasts_s = transport, lasts_s or math.inf
        self._due: dict[Key, float] = {}
        self._unread: deque[Reply] = deque()
        self._late = TIMED_OUT

    def begin(self, now: float, ends_s: float) -> None:
        """Do nothing: each job has its own time."""

    def bound_s(self, asked: Sequence[Asked], wanted: int) -> float:
        """Return 0: no clock is simulated."""
        return 0.0

    def give(self, requests: Sequence[Request], asked: Sequence[Asked], timeout_s: float) -> None:
        """Send requests."""
        self._transport.submit(requests, timeout_s)
        self._late = CLOSED if self._lasts_s < timeout_s else TIMED_OUT
        due = time.monotonic() + min(timeout_s, self._lasts_s)
        self._due |= dict.fromkeys((job.key for job in asked), due)

    def next(self, intake: Intake, wanted: int) -> Reply | None:
        """Return the next reply; None once jobs were given up."""
        while not self._unread:
            if late := overdue(self._due, intake):
                intake.give_up(late, self._late)
                return None
            self._unread += self._transport.poll()
        reply = self._unread.popleft()
        self._due.pop((reply.job, reply.client), None)
        return reply

    def rest(self) -> list[Reply]:
        """Return what is unread."""
        unread = [*self._unread]
        self._unread.clear()
        self._due.clear()
        return unread


@dataclass(frozen=True)
class Span:
    """Between which simulated seconds a job's reply comes."""

    earliest: float
    latest: float


class ByClock:
    """Replies in the order of simulated time.

    Parameters
    ----------
    transport : does the jobs, in any order.
    network : the links and local steps.
    lasts_s : simulated seconds that a round lasts at most, 0 for no such limit.
    all_count : every job will be needed sooner or later, so that all are done at once. Else a job
        that certainly comes after the replies that a step waits for is not trained at all, unless
        one before it fails.
    """

    clocked, over = True, False

    def __init__(
        self, transport: Transport, network: Network, lasts_s: float, all_count: bool
    ) -> None:
        self._transport, self._network, self._all_count = transport, network, all_count
        self._lasts_s = lasts_s or math.inf
        self.now, self._closes_s = 0.0, math.inf
        self._spans: dict[Key, Span] = {}
        self._due: dict[Key, float] = {}
        self._unsent: dict[Key, Request] = {}
        self._held: dict[Key, tuple[float, Reply]] = {}
        self._timeout_s = 0.0

    def begin(self, now: float, ends_s: float) -> None:
        """Begin a round in a simulated second."""
        self.now, self.over = now, False
        self._closes_s = min(now + self._lasts_s, ends_s or math.inf)

    def bound_s(self, asked: Sequence[Asked], wanted: int) -> float:
        """Return the seconds to the latest moment in which so many have come, if none fails."""
        latest = sorted(span_of(self._network, job).latest for job in asked)
        at = latest[min(wanted, len(latest)) - 1] if latest else self.now
        return min(at - self.now, self._lasts_s)

    def give(self, requests: Sequence[Request], asked: Sequence[Asked], timeout_s: float) -> None:
        """Take requests; those that are needed are sent when a reply is asked for."""
        self._timeout_s = timeout_s
        self._spans |= {job.key: span_of(self._network, job) for job in asked}
        for request in requests:
            self._unsent |= {(job.id, job.client): request for job in request.jobs}

    def next(self, intake: Intake, wanted: int) -> Reply | None:
        """Return the reply that is next in simulated time; None once the round's time is over."""
        while True:
            self._send(intake, wanted)
            coming = [(span.earliest, key) for key, span in self._open(intake).items()]
            if not coming or min(coming)[0] > self._closes_s:
                self.now, self.over = self._closes_s, True
                return None
            known = [(at, key) for key, (at, _) in self._held.items()]
            at, key = min(known, key=_order, default=(math.inf, (0, "")))
            if known and not any(_order(one) < _order((at, key)) for one in coming):
                if at > self._closes_s:
                    self.now, self.over = self._closes_s, True
                    return None
                self.now = at
                return self._held.pop(key)[1]
            if late := overdue(self._due, intake):
                intake.give_up(late, owed=False)
                return None
            for reply in self._transport.poll():
                key = (reply.job, reply.client)
                if key in intake.open and key not in self._held:
                    self._held[key] = self._arrival(intake.open[key], reply), reply
                    del self._due[key]  # it has come, however long its turn is away

    def rest(self) -> list[Reply]:
        """Forget what was given up; it has not travelled."""
        self._spans.clear()
        self._due.clear()
        self._unsent.clear()
        self._held.clear()
        return []

    def _open(self, intake: Intake) -> dict[Key, Span]:
        """Return when the open jobs come, as far as that is known."""
        for key in self._spans.keys() - intake.open.keys():
            del self._spans[key]
            self._due.pop(key, None)
            self._unsent.pop(key, None)
            self._held.pop(key, None)
        exact = {key: Span(at, at) for key, (at, _) in self._held.items()}
        return {key: exact.get(key, span) for key, span in self._spans.items()}

    def _send(self, intake: Intake, wanted: int) -> None:
        """Submit the jobs that may be among those that the step waits for."""
        spans = self._open(intake)
        failed = {key for key, (_, reply) in self._held.items() if not reply.vectors}
        latest = sorted(span.latest for key, span in spans.items() if key not in failed)
        limit = math.inf
        if not self._all_count and len(latest) >= wanted:
            limit = min(self._closes_s, latest[wanted - 1])
        elif not self._all_count:
            limit = self._closes_s
        parts: dict[int, tuple[Request, list[Key]]] = {}
        for key, request in self._unsent.items():
            if spans[key].earliest <= limit:
                parts.setdefault(id(request), (request, []))[1].append(key)
        if not parts:
            return
        due, requests = time.monotonic() + self._timeout_s, []
        for request, keys in parts.values():
            chosen = [job for job in request.jobs if (job.id, job.client) in keys]
            requests.append(replace(request, jobs=tuple(chosen)))
            for key in keys:
                del self._unsent[key]
                self._due[key] = due
        self._transport.submit(requests, self._timeout_s)

    def _arrival(self, asked: Asked, reply: Reply) -> float:
        span = self._spans[asked.key]
        if not reply.vectors:
            return span.earliest
        up = sum(int(payload.size) for payload in reply.vectors.values())
        # A server hangs up where an update grows beyond what the plan allows.
        return min(finish(self._network, asked, up), span.latest)


def span_of(network: Network, asked: Asked) -> Span:
    """Return between which simulated seconds the reply to a job comes."""
    return Span(finish(network, asked, 0), finish(network, asked, asked.most_bytes))


def finish(network: Network, asked: Asked, up_bytes: int) -> float:
    """Return the simulated second in which a reply of so many bytes has come."""
    client, down = asked.job.client, asked.down_bytes
    return asked.start_s + network.participant_seconds(client, down, up_bytes, asked.amount)


def overdue(due: Mapping[Key, float], intake: Intake) -> list[Key]:
    """Return the open jobs whose wall-clock is used up."""
    now = time.monotonic()
    return [key for key in intake.open if due.get(key, math.inf) <= now]


def _order(one: tuple[float, Key]) -> tuple[float, str, int]:
    at, (id_, client) = one
    return at, client, id_
