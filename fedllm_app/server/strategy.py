"""Algorithm 1 as a Flower strategy, and the transport that carries its jobs over Flower's grid.

`start` runs the loop of server/loop.py; `configure_train` and `aggregate_train` are the same two
halves of a round for whoever drives a strategy by hand. In simulation every node plays every
client, and the jobs of a round are spread over the nodes by their number of examples; on devices
a client lives on its own node.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedllm_app.core.errors import WireError
from fedllm_app.core.job import Job, Reply, Request
from fedllm_app.message import last_line, pack_request, read_replies, unpack_holdings
from fedllm_app.server.loop import Loop, OpenRound
from fedllm_app.server.sampling import sample_cohort

log = logging.getLogger("fedllm")
SHORTEST_WAIT_S, LONGEST_WAIT_S = 0.01, 0.5
QUERY_TIMEOUT_S = 120.0


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
        self._counts: dict[int, dict[str, int]] = {}  # in the order of answers
        self._homes: dict[str, int] = {}
        self._simulated: dict[str, int] = {}
        self._federation = 0
        self._open: dict[str, tuple[int, tuple[Job, ...]]] = {}
        self._failed: list[Reply] = []
        self._wait_s = SHORTEST_WAIT_S

    def clients(self) -> Mapping[str, int]:
        """Return the examples of every client that is there, waiting for enough of them."""
        said = 0.0
        while True:
            nodes = self._learn()
            found = self._simulated or {c: self._counts[n][c] for c, n in self._homes.items()}
            enough = len(nodes) >= self._federation and len(found) >= self._wait_for
            if enough:
                self._wait_for = 1
                return found
            if time.monotonic() - said > 30:
                said = time.monotonic()
                log.info("waiting: %d nodes with %d clients are there", len(nodes), len(found))
            time.sleep(0.2)

    def submit(self, requests: Sequence[Request], timeout_s: float) -> None:
        """Send requests; a device that is still at an earlier job is not given another."""
        self._wait_s = SHORTEST_WAIT_S
        # Answers to earlier rounds: their nodes are free again, and their bytes have travelled.
        self._failed = self._replies()
        alive = set(self._grid.get_node_ids())
        self._open = {i: (node, jobs) for i, (node, jobs) in self._open.items() if node in alive}
        for node, request in self.assign(requests):
            message = Message(
                content=pack_request(request),
                dst_node_id=node,
                message_type="train",
                group_id=str(request.jobs[0].id),
                ttl=timeout_s,
            )
            taken = [i for i in self._grid.push_messages([message]) if i]
            self._open |= dict.fromkeys(taken, (node, request.jobs))
            if not taken:  # the node has just gone, or the message is too large for Flower
                why = "Flower did not take the message"
                self._failed += [Reply(j.id, j.client, error=why) for j in request.jobs]

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
        """Return what has come, one reply for each job that a message asked for."""
        replies = []
        for asked, message in self._pull(list(self._open)):
            _, jobs = self._open.pop(asked, (0, ()))
            if message is None:
                why = "its reply is no message of Flower's"
                replies += [Reply(j.id, j.client, error=why, reason="malformed") for j in jobs]
            else:
                replies += read_replies(message, jobs)
        return replies

    def assign(self, requests: Sequence[Request]) -> Iterable[tuple[int, Request]]:
        """Yield (node, request) pairs, each with the jobs that the node is to do."""
        if not self._simulated:
            busy = {node for node, _ in self._open.values()}
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
        for request in requests:
            held: dict[int, list[Job]] = {}
            # Longest first onto the least loaded: a round lasts as long as its busiest node.
            for job in sorted(request.jobs, key=lambda j: (-self._simulated[j.client], j.client)):
                node = min(nodes, key=lambda n: load[n])
                load[node] += self._simulated[job.client]
                held.setdefault(node, []).append(job)
            for node, jobs in held.items():
                yield node, replace(request, jobs=tuple(jobs))

    def _learn(self) -> list[int]:
        """Ask every new node once which clients it plays, and wait for nobody's answer.

        Returns the nodes that have answered.
        """
        nodes = sorted(self._grid.get_node_ids())
        if self._simulated:
            return nodes
        self._asked = {i: node for i, node in self._asked.items() if node in nodes}
        known = {*self._counts, *self._asked.values()}
        new = [node for node in nodes if node not in known]
        if not self._devices:
            # In a simulation all nodes would give the same long answer: the first speaks for all.
            new = [] if known else new[:1]
        for node in new:
            question = Message(
                RecordDict(), dst_node_id=node, message_type="query", ttl=QUERY_TIMEOUT_S
            )
            self._asked |= {i: node for i in self._grid.push_messages([question]) if i}
        self._find_homes(nodes)
        for asked, answer in self._pull(list(self._asked)):
            self._hear(self._asked.pop(asked), answer)
            self._find_homes(nodes)  # of two that come together, too, one is the first
        return [node for node in nodes if self._simulated or node in self._counts]

    def _hear(self, node: int, answer: Message | None) -> None:
        """Take in what a node says it holds."""
        try:
            if answer is None or answer.has_error():
                why = last_line(answer.error.reason) if answer else "no message of Flower's"
                raise WireError(f"it failed: {why}", "error")
            holdings = unpack_holdings(answer.content)
        except WireError as error:
            if not self._devices:
                raise
            log.warning("node %d is left out: %s", node, error)
            self._counts[node] = {}
            return
        if holdings.federation and not self._devices:
            self._simulated, self._federation = holdings.counts, holdings.federation
            return
        for client in sorted(self._homes.keys() & holdings.counts.keys()):
            log.warning("node %d: client-id %r is taken, until its node is gone", node, client)
        self._counts[node] = holdings.counts

    def _find_homes(self, there: Collection[int]) -> None:
        """Give every client the node that was the first to hold it, of those that are there."""
        self._homes = {}
        for node, held in self._counts.items():
            if node in there:
                self._homes = dict.fromkeys(held, node) | self._homes

    def _pull(self, message_ids: list[str]) -> list[tuple[str, Message | None]]:
        """Return the replies that have come, by what they answer; None cannot be read."""
        # One by one from devices: of those that come together one can spoil all.
        found: list[tuple[str, Message | None]] = []
        for ids in [[i] for i in message_ids] if self._devices else [message_ids]:
            try:
                for message in self._grid.pull_messages(ids) if ids else ():
                    found.append((message.metadata.reply_to_message_id, message))
            except (ArithmeticError, LookupError, TypeError, UnicodeError, ValueError) as error:
                log.warning("a reply that came cannot be read: %r", error)
                found += [(i, None) for i in ids]
        return found


class FedSparse(Strategy):
    """FedOpt with sparse traffic: one Flower strategy for every plan.

    Parameters
    ----------
    build : makes the loop over a transport.
    wait_for, devices : of the transport.
    summary_text : the resolved settings, printed before round 1.
    """

    def __init__(
        self,
        build: Callable[[FlowerTransport], Loop],
        wait_for: int,
        devices: bool,
        summary_text: str,
    ) -> None:
        self._build, self._summary = build, summary_text
        self._wait_for, self._devices = wait_for, devices
        self._loop: Loop | None = None
        self._opened: OpenRound | None = None

    def summary(self) -> None:
        """Log the resolved settings."""
        log.info(self._summary)

    def loop(self, grid: Grid) -> Loop:
        """Return the loop over this grid, built at the first call."""
        if self._loop is None:
            self._loop = self._build(FlowerTransport(grid, self._wait_for, self._devices))
        return self._loop

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int = 0,
        timeout: float = 0,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the loop to its end; parameters and rounds are the run-config's."""
        self.summary()
        loop = self.loop(grid)
        loop.play()
        result = Result()
        result.arrays = arrays_of(loop.optimizer.params)
        metrics = MetricRecord(dict(loop.recorder.evaluation))
        result.evaluate_metrics_serverapp = {loop.recorder.progress.round: metrics}
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages of a round, one per client."""
        loop = self.loop(grid)
        clients = loop.transport.clients()
        cohort = sample_cohort(clients, loop.round.clients, loop.run.seed, server_round)
        self._opened = loop.open_round(server_round, cohort)
        loop.record_downloads(self._opened)
        transport = loop.transport
        assert isinstance(transport, FlowerTransport)
        for node, request in transport.assign(self._opened.requests):
            yield Message(pack_request(request), dst_node_id=node, message_type="train")

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fold the replies in and take the server's step."""
        loop, opened = self._loop, self._opened
        if loop is None or opened is None:
            return None, None
        for message in replies:
            for reply in read_replies(message, tuple(opened.intake.open.values())):
                if reply.update is not None:
                    opened.intake.take(reply)
        opened.intake.give_up()
        loop.close_round(opened)
        loss = opened.intake.train_loss()
        metrics = MetricRecord({} if loss is None else {"train-loss": loss})
        return arrays_of(loop.optimizer.params), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask no client: the model that devices receive is evaluated on the server."""
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the server's latest evaluation."""
        return MetricRecord(dict(self._loop.recorder.evaluation)) if self._loop else None


def arrays_of(params_P: np.ndarray) -> ArrayRecord:
    """Return the flat parameters as one float32 Array."""
    return ArrayRecord({"params": Array(params_P)})
