"""The transport that carries jobs over Flower's grid, in simulation and to devices.

In simulation every node plays every client, and the jobs of a round are spread over the nodes by
their number of examples; on devices a client lives on its own node.
"""

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from fedllm_app.core.counts import Counts
from fedllm_app.core.errors import WireError, check_room
from fedllm_app.core.job import Job, Measurement, Profile, Reply, Request
from fedllm_app.flower.asking import Asking
from fedllm_app.flower.grid import LONGEST_WAIT_S, SHORTEST_WAIT_S, Grid, pulled
from fedllm_app.flower.message import (
    Holdings,
    Message,
    last_line,
    query_message,
    read_replies,
    train_message,
    unpack_holdings,
)

log = logging.getLogger("fedllm")
QUERY_TIMEOUT_S = 120.0
ASK_AGAIN_S = 60.0
LATE = 3.0  # round time-outs after which no answer is taken any more
LONGEST_ID = 200
MOST_EXAMPLES = 1 << 40


class FlowerTransport:
    """Jobs to nodes and replies back, over Flower's grid.

    Parameters
    ----------
    grid : Flower's.
    wait_for : clients that must be there before the first round.
    devices : nodes are devices with data of their own, one of which may fail and is left out; in a
        simulation all nodes are alike, and a failure is everybody's.
    """

    def __init__(self, grid: Grid, wait_for: int, devices: bool) -> None:
        self._grid, self._wait_for, self._devices = grid, wait_for, devices
        self._asked: dict[str, int] = {}  # question -> node
        self._again: dict[int, float] = {}  # node left out -> when it is asked again
        self._counts: dict[int, dict[str, int]] = {}  # in the order of answers
        self._homes: dict[str, int] = {}
        self._simulated = Counts()
        self._federation = 0
        self._profiles: dict[str, Profile] = {}
        self._held: dict[int, dict[str, int]] = {}  # by node
        self._asking = Asking(grid)
        self._open: dict[str, tuple[int, tuple[Job, ...]]] = {}
        self._failed: list[Reply] = []
        self._wait_s = SHORTEST_WAIT_S

    def clients(self) -> Mapping[str, int]:
        """Return the examples of every client that is there, waiting for enough of them."""
        said = 0.0
        while True:
            nodes = self._query_nodes()
            found = self._simulated or {c: self._counts[n][c] for c, n in self._homes.items()}
            enough = len(nodes) >= self._federation and len(found) >= self._wait_for
            if enough:
                self._wait_for = 1
                return found
            if time.monotonic() - said > 30:
                said = time.monotonic()
                log.info("waiting: %d nodes with %d clients are there", len(nodes), len(found))
            time.sleep(0.2)

    def busy(self) -> set[str]:
        """Return the clients of devices that are still at an earlier job.

        In a simulation a worker takes one job after the other, and nobody is.
        """
        if self._simulated:
            return set()
        self._gather()
        at_a_job = {job.client for _, jobs in self._open.values() for job in jobs}
        return at_a_job | set(self._asking.late.values())

    def held(self) -> Mapping[str, int]:
        """Return how many examples each device that is there holds out."""
        self._query_nodes()
        of = {
            client: self._held.get(node, {}).get(client, 0) for client, node in self._homes.items()
        }
        return {client: number for client, number in of.items() if number}

    def measure(self, request: Request, timeout_s: float) -> list[Measurement]:
        """Ask devices, those that are at a job too, and return the answers that came in time.

        A device answers one message after the other. While its late answer is open, it gets no job.
        """
        return self._asking.ask(request, self._homes, timeout_s, LATE * timeout_s)

    def profiles(self) -> Mapping[str, Profile]:
        """Return what the nodes have said of their clients' devices."""
        return self._profiles

    def submit(self, requests: Sequence[Request], timeout_s: float) -> None:
        """Send requests; a device that is still at an earlier job is not given another."""
        self._wait_s = SHORTEST_WAIT_S
        self._gather()
        for node, request in self.assign(requests):
            # An answer that is late for its round frees its device, and its bytes count.
            message = train_message(request, node, LATE * timeout_s)
            taken = [i for i in self._grid.push_messages([message]) if i]
            self._open |= dict.fromkeys(taken, (node, request.jobs))
            if not taken:  # the node has just gone, or the message is too large for Flower
                why = "Flower did not take the message"
                self._failed += [Reply(j.id, j.client, error=why) for j in request.jobs]

    def _gather(self) -> None:
        """Take in answers to earlier rounds, and forget the jobs of nodes that have left.

        Those that answered are free again, and their bytes have travelled.
        """
        self._failed += self._replies()
        alive = set(self._grid.get_node_ids())
        self._open = {i: (node, jobs) for i, (node, jobs) in self._open.items() if node in alive}
        self._asking.gather()

    def poll(self) -> list[Reply]:
        """Return what has come; sleep a little, and longer each time, when nothing has."""
        failed, self._failed = self._failed, []
        replies = failed + self._replies()
        if replies:
            self._wait_s = SHORTEST_WAIT_S
        else:
            time.sleep(self._wait_s)
            self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S if not self._simulated else 0.05)
        return replies

    def _replies(self) -> list[Reply]:
        """Return what has come, one reply for each job that a message asked for.

        Raises
        ------
        EngineError
            If a process that the simulation needs has died, or its disk is full.
        """
        replies = []
        for asked, message in pulled(self._grid, list(self._open), self._devices):
            _, jobs = self._open.pop(asked, (0, ()))
            if message is None:
                why = "its reply is no message of Flower's"
                replies += [Reply(j.id, j.client, error=why, reason="malformed") for j in jobs]
            else:
                replies += read_replies(message, jobs)
        if not self._devices:
            check_room(reply.error for reply in replies)
        return replies

    def assign(self, requests: Sequence[Request]) -> Iterable[tuple[int, Request]]:
        """Yield (node, request) pairs, each with the jobs that the node is to do."""
        if not self._simulated:
            busy = {node for node, _ in self._open.values()}
            busy |= {self._homes[c] for c in self._asking.late.values() if c in self._homes}
            for request in requests:
                for job in request.jobs:
                    node = self._homes[job.client]
                    if node in busy:
                        why = "the device is still at an earlier job"
                        self._failed.append(Reply(job.id, job.client, error=why, reason="late"))
                    else:
                        yield node, replace(request, jobs=(job,))
            return
        nodes = sorted(self._grid.get_node_ids())
        load = dict.fromkeys(nodes, 0)
        for node, still in self._open.values():
            if node in load:
                load[node] += sum(self._simulated.get(job.client, 0) for job in still)
        for request in requests:
            held: dict[int, list[Job]] = {}
            # Longest first onto the least loaded: a round lasts as long as its busiest node.
            for job in sorted(request.jobs, key=lambda j: (-self._simulated[j.client], j.client)):
                node = min(nodes, key=lambda n: load[n])
                load[node] += self._simulated[job.client]
                held.setdefault(node, []).append(job)
            for node, jobs in held.items():
                yield node, replace(request, jobs=tuple(jobs))

    def _query_nodes(self) -> list[int]:
        """Ask every new node which clients it plays, and wait for nobody's answer.

        Returns the nodes that have answered. One whose answer was none is asked again later: it
        may have been at preparing its data.
        """
        nodes = sorted(self._grid.get_node_ids())
        if self._simulated:
            return nodes
        self._asked = {i: node for i, node in self._asked.items() if node in nodes}
        for node in [node for node, due in self._again.items() if due <= time.monotonic()]:
            del self._counts[node], self._again[node]
        known = {*self._counts, *self._asked.values()}
        new = [node for node in nodes if node not in known]
        if not self._devices:
            # In a simulation all nodes would give the same long answer: the first speaks for all.
            new = [] if known else new[:1]
        for node in new:
            question = query_message(node, QUERY_TIMEOUT_S)
            self._asked |= {i: node for i in self._grid.push_messages([question]) if i}
        self._locate_clients(nodes)
        for asked, answer in pulled(self._grid, list(self._asked), self._devices):
            self._take_holdings(self._asked.pop(asked), answer)
            self._locate_clients(nodes)  # of two that come together, too, one is the first
        return [node for node in nodes if self._simulated or node in self._counts]

    def _take_holdings(self, node: int, answer: Message | None) -> None:
        """Take in what a node says it holds."""
        try:
            if answer is None or answer.has_error():
                why = last_line(answer.error.reason) if answer else "no message of Flower's"
                raise WireError(f"it failed: {why}", "error")
            holdings = unpack_holdings(answer.content)
            if self._devices:
                check_device(holdings)
        except WireError as error:
            if not self._devices:
                raise
            log.warning(
                "node %d is left out, and asked again in %g s: %s", node, ASK_AGAIN_S, error
            )
            self._counts[node], self._again[node] = {}, time.monotonic() + ASK_AGAIN_S
            return
        self._profiles |= holdings.profiles
        if holdings.federation and not self._devices:
            self._simulated, self._federation = Counts(holdings.counts), holdings.federation
            return
        for client in sorted(self._homes.keys() & holdings.counts.keys()):
            log.warning("node %d: client-id %r is taken, until its node is gone", node, client)
        self._counts[node], self._held[node] = holdings.counts, holdings.held

    def _locate_clients(self, there: Collection[int]) -> None:
        """Give every client the node that was the first to hold it, of those that are there."""
        self._homes = {}
        for node, held in self._counts.items():
            if node in there:
                self._homes = dict.fromkeys(held, node) | self._homes


def check_device(holdings: Holdings) -> None:
    """Raise WireError unless a device names one client, by an id that a log can show."""
    if len(holdings.counts) != 1:
        raise WireError(f"it names {len(holdings.counts)} clients; expected one, its own")
    (client,) = holdings.counts
    for number in (holdings.counts[client], holdings.held.get(client, 0)):
        if not 0 <= number < MOST_EXAMPLES:
            raise WireError(f"it says that it has {number:.3g} examples; expected 0 to 2^40")
    if (holdings.profiles.keys() | holdings.held.keys()) - {client}:
        raise WireError("it describes the devices of other clients; expected its own alone")
    if not client.isprintable() or len(client) > LONGEST_ID:
        raise WireError(
            f"its client-id is {client[:LONGEST_ID]!r}; expected at most {LONGEST_ID} printable "
            "characters"
        )
