"""What carries jobs to clients and replies back: the loop knows no more of it than this."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from fedllm_app.core.job import Measurement, Profile, Reply, Request


class Transport(Protocol):
    """Carries requests to clients and brings their replies back."""

    def clients(self) -> Mapping[str, int]:
        """Return the number of examples of every client that is there."""

    def busy(self) -> Collection[str]:
        """Return the clients that cannot be asked now: their device is at an earlier job."""

    def profiles(self) -> Mapping[str, Profile]:
        """Return what is known of the devices of some clients."""

    def submit(self, requests: Sequence[Request], timeout_s: float) -> None:
        """Send requests."""

    def poll(self) -> list[Reply]:
        """Return the replies that have come, after a moment's wait when there are none."""

    def held(self) -> Mapping[str, int]:
        """Return how many examples each client that is there holds out on its device."""

    def measure(self, request: Request, timeout_s: float) -> Sequence[Measurement]:
        """Let the clients of a request measure the model; return what came within the time."""
