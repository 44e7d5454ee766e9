"""Which simulated clients are there in a round: each as often as its class says."""

from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np

from fedllm_app.core.counts import eligible
from fedllm_app.core.seeds import generator
from fedllm_app.devices.fleet import Fleet

# Returns those that are there in a round, of clients with their numbers of examples.
Present = Callable[[Mapping[str, int], int], Mapping[str, int]]


def everybody(clients: Mapping[str, int], round_: int) -> Mapping[str, int]:
    """Return all clients: nobody is ever away."""
    return clients


class Available:
    """Draws who is there, from (seed, round) and all clients of the run and nothing else.

    Within a round a client is there or not, however often it is asked for.

    Parameters
    ----------
    fleet : says the class of a client.
    counts : examples of every client of the run.
    seed : of the run.
    """

    def __init__(self, fleet: Fleet, counts: Mapping[str, int], seed: int) -> None:
        self._fleet, self._counts, self._seed = fleet, counts, seed
        self._round, self._wait = -1, dict[str, float]()

    def __call__(self, clients: Mapping[str, int], round_: int) -> Mapping[str, int]:
        """Return those that are there; where all are away, the one that would be back first.

        Parameters
        ----------
        clients : of the run, with their numbers of examples.
        """
        if round_ != self._round:
            drawn = generator(self._seed, "available", round_).random(len(self._shares))
            wait = dict(zip(eligible(self._counts), drawn / self._shares, strict=True))
            self._round, self._wait = round_, wait
        able = [client for client in clients if client in self._wait]
        there = [client for client in able if self._wait[client] < 1]
        there = there or sorted(able, key=lambda client: (self._wait[client], client))[:1]
        return {client: clients[client] for client in there}

    @cached_property
    def _shares(self) -> np.ndarray:
        """The share of the time that each client is there, float64 of shape (C,)."""
        return np.array([self._fleet.of(client)["available"] for client in eligible(self._counts)])


def present_of(fleet: Fleet | None, counts: Mapping[str, int], seed: int) -> Present:
    """Return what says who is there, by devices.available.

    Parameters
    ----------
    fleet : of simulated devices, None where there is none.
    """
    asked = fleet is not None and fleet.settings.available
    return Available(fleet, counts, seed) if fleet is not None and asked else everybody
