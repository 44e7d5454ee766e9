"""What is used of Flower's grid, and how answers are taken from it."""

import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

import httpx
from flwr.common.constant import ErrorCode

from fedllm_app.core.errors import EngineError
from fedllm_app.flower.message import Message, last_line

log = logging.getLogger("fedllm")
SHORTEST_WAIT_S, LONGEST_WAIT_S = 0.01, 0.5


class Grid(Protocol):
    """What is used of Flower's grid."""

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes that are there."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages and return their ids, an empty one for each that was not taken."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these that have come."""


def pulled(
    grid: Grid, message_ids: Sequence[str], devices: bool
) -> list[tuple[str, Message | None]]:
    """Return the replies that have come, by what they answer; None cannot be read.

    Parameters
    ----------
    devices : they come from devices, each by itself; else from a simulation.

    Raises
    ------
    EngineError
        If a process that the simulation needs has died.
    """
    if not devices:
        came = list(grid.pull_messages(message_ids)) if message_ids else []
        for message in came:
            if why := engine_failure(message):
                raise EngineError(
                    f"{why} The open round is not spent: start the same run.name again to go on"
                )
        return [(message.metadata.reply_to_message_id, message) for message in came]
    # One by one from devices: of those that come together one can spoil all. Flower builds a
    # message from whatever bytes a device has sent, so anything may go wrong with it; what it
    # says it answers is not asked.
    found: list[tuple[str, Message | None]] = []
    for i in message_ids:
        try:
            for message in grid.pull_messages([i]):
                found.append((i, message if isinstance(message, Message) else None))
        except (httpx.HTTPError, OSError):  # the way to the SuperLink, which Flower has retried
            raise
        except Exception as error:
            log.warning("a reply that came cannot be read: %r", error)
            found.append((i, None))
    return found


def engine_failure(message: Message) -> str:
    """Return what of a simulation died, by an error that no app of ours raised; "" if none did.

    Flower gives every error of Ray's as unknown. A dead worker or raylet is among them, and from
    then on every message fails at once.
    """
    if not message.has_error() or message.error.code != ErrorCode.UNKNOWN:
        return ""
    lines = [line.strip() for line in (message.error.reason or "").splitlines()]
    pid = next((line[4:].strip() for line in lines if line.startswith("pid:")), "unknown")
    why = next((line for line in lines if line.startswith("The actor is dead because")), "")
    if not why:
        return f"Ray failed: {last_line(message.error.reason)}"
    if "node has" in why:
        return "Ray's raylet died."
    return f"a worker of Ray's (process {pid}) died: {why.partition(' Some common')[0]}"
