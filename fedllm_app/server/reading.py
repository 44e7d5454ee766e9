"""How clients go through their examples: again and again, or once, as a stream.

Where a client stands in its stream is the server's knowledge: it moves on when a reply is accepted,
by what the job asked for, whatever the device says that it used. So what a lost reply was trained
on is played again, and a resumed run stands where it stood.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fedllm_app.core.plan import Work
from fedllm_app.core.units import listed

log = logging.getLogger("fedllm")
ENDED = "the streams ended"
SHOWN = 5


class Reading(Protocol):
    """What the loop asks."""

    def left(self, clients: Mapping[str, int], progress: Mapping[str, int]) -> Mapping[str, int]:
        """Return the clients that can still be asked.

        Parameters
        ----------
        clients : examples of each client that is there.
        progress : examples that each has used in accepted jobs.
        """

    def ended(self, clients: Mapping[str, int], progress: Mapping[str, int]) -> Sequence[str]:
        """Return the others, sorted."""

    def rows(self, work: Work) -> int:
        """Return the examples that a job uses up, 0 where the device says."""


class Epochs:
    """Every job goes through the client's examples anew."""

    def left(self, clients: Mapping[str, int], progress: Mapping[str, int]) -> Mapping[str, int]:
        """Return all clients."""
        return clients

    def ended(self, clients: Mapping[str, int], progress: Mapping[str, int]) -> Sequence[str]:
        """Return nobody."""
        return ()

    def rows(self, work: Work) -> int:
        """Return 0."""
        return 0


@dataclass
class Streams:
    """Every job goes on where the client's last accepted one ended.

    Attributes
    ----------
    steps, batch : of a job, unless its plan says otherwise.
    wraps : a stream that ends begins again; else its client has no part in what follows.
    """

    steps: int
    batch: int
    wraps: bool = False
    _said: set[str] = field(default_factory=set)

    def left(self, clients: Mapping[str, int], progress: Mapping[str, int]) -> Mapping[str, int]:
        """Return the clients whose stream holds another job, and say which ones have ended."""
        ended = self.ended(clients, progress)
        going = {c: n for c, n in clients.items() if c not in set(ended)} if ended else clients
        if new := [client for client in ended if client not in self._said]:
            self._said |= set(new)
            log.info(
                "the streams of %d clients hold no further job of %d rows: %s; %d go on",
                len(new), self.rows(Work()), listed(new, SHOWN), len(going),
            )  # fmt: skip
        return going

    def ended(self, clients: Mapping[str, int], progress: Mapping[str, int]) -> Sequence[str]:
        """Return the clients whose stream holds fewer rows than a job takes; none where it wraps.

        A client without any row has no part in a run either way.
        """
        need = 1 if self.wraps else self.rows(Work())
        used: Mapping[str, int] = {} if self.wraps else progress
        return sorted(c for c, n in clients.items() if n - used.get(c, 0) < need)

    def rows(self, work: Work) -> int:
        """Return the rows that a job of this work goes through."""
        return (work.steps or self.steps) * (work.batch or self.batch)
