"""Devices are asked what the model is worth on what they hold out, each by a message of its own."""

import time
from collections.abc import Mapping
from dataclasses import replace

from fedllm_app.core.job import Measurement, Request
from fedllm_app.flower.grid import LONGEST_WAIT_S, SHORTEST_WAIT_S, Grid, pulled
from fedllm_app.flower.measuring import read_measurement
from fedllm_app.flower.message import Message, pack_request


class Asking:
    """The questions to devices that are open.

    Attributes
    ----------
    late : client of each message whose answer did not come in time, and still may.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self.late: dict[str, str] = {}
        self._nodes: dict[str, int] = {}

    def ask(
        self, request: Request, homes: Mapping[str, int], timeout_s: float, ttl_s: float
    ) -> list[Measurement]:
        """Ask every client of a request, and return what came within the time.

        Parameters
        ----------
        homes : node of each client that is there.
        ttl_s : seconds that a message lives.
        """
        deadline, found, open = time.monotonic() + timeout_s, list[Measurement](), dict[str, str]()
        for job in request.jobs:
            taken: list[str] = []
            if (node := homes.get(job.client)) is not None:
                message = Message(
                    content=pack_request(replace(request, jobs=(job,))), dst_node_id=node,
                    message_type="evaluate", group_id=str(job.id), ttl=ttl_s,
                )  # fmt: skip
                taken = [i for i in self._grid.push_messages([message]) if i]
                open |= dict.fromkeys(taken, job.client)
                self._nodes |= dict.fromkeys(taken, node)
            if not taken:  # the node has just gone, or the message is too large for Flower
                found.append(Measurement(job.client, error="Flower did not take the message"))
        wait_s = SHORTEST_WAIT_S
        while open:
            came = pulled(self._grid, list(open), True)
            found += [read_measurement(message, open.pop(asked)) for asked, message in came]
            if time.monotonic() >= deadline:
                break
            wait_s = SHORTEST_WAIT_S if came else min(2 * wait_s, LONGEST_WAIT_S)
            time.sleep(wait_s)
        self.late |= open
        return found

    def gather(self) -> None:
        """Let go of late answers that have come, and of those of nodes that have left."""
        alive = set(self._grid.get_node_ids())
        gone = [i for i in self.late if self._nodes[i] not in alive]
        for asked in [*(i for i, _ in pulled(self._grid, list(self.late), True)), *gone]:
            self.late.pop(asked, None)
        self._nodes = {i: self._nodes[i] for i in self.late}
