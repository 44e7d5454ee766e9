"""Seconds and joules that a job takes a device: computing, on the air, and waiting.

compute-s   FLOPs of the local steps / FLOP/s of the device
radio-s     download and upload over the device's link
wait-s      the rest of the round, where the client has to wait for the others
energy-j    the three times the watts of the device's profile
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

from fedllm_app.core.settings import kebab
from fedllm_app.devices.fleet import Fleet
from fedllm_app.devices.network import Network


@dataclass(frozen=True)
class Usage:
    """What a device did in a round.

    Attributes
    ----------
    device : its class.
    flops : of its local steps.
    compute_s, down_s, up_s, wait_s : seconds.
    compute_j, radio_j, wait_j : joules.
    """

    device: str = ""
    flops: float = 0.0
    compute_s: float = 0.0
    down_s: float = 0.0
    up_s: float = 0.0
    wait_s: float = 0.0
    compute_j: float = 0.0
    radio_j: float = 0.0
    wait_j: float = 0.0

    @property
    def energy_j(self) -> float:
        """All joules."""
        return self.compute_j + self.radio_j + self.wait_j

    def record(self) -> dict[str, float | str]:
        """Return it as a line of devices.jsonl has it."""
        return {kebab(name): value for name, value in asdict(self).items()}

    def __add__(self, other: "Usage") -> "Usage":
        """Return the sum, which is of no class."""
        names = (f.name for f in fields(self) if f.name != "device")
        return Usage(**{n: getattr(self, n) + getattr(other, n) for n in names})


@dataclass(frozen=True)
class Meter:
    """Reckons the usage of every client of a fleet.

    Attributes
    ----------
    fleet : says what each client trains on.
    network : the clock of the run.
    """

    fleet: Fleet
    network: Network

    def usage(
        self,
        client: str,
        down_bytes: int | None,
        up_bytes: int | None,
        amount: float,
        lasted_s: float = 0.0,
    ) -> Usage:
        """Return what a client used in a round.

        Parameters
        ----------
        down_bytes, up_bytes : None where nothing went that way.
        amount : what it computed (`Network.amount`).
        lasted_s : of the round; the client waits for its end. 0: nobody waits.
        """
        profile, link = self.fleet.of(client), self.network.link(client)
        compute_s = self.network.compute_seconds(client, amount)
        down_s, up_s = link.seconds(down_bytes), link.seconds(None, up_bytes)
        wait_s = max(0.0, lasted_s - compute_s - down_s - up_s) if lasted_s else 0.0
        return Usage(
            profile.name, self.network.flops(amount), compute_s, down_s, up_s, wait_s,
            compute_s * profile["compute-power"], (down_s + up_s) * profile["radio-power"],
            wait_s * profile["idle-power"],
        )  # fmt: skip


def total(usages: Iterable[Usage]) -> Usage:
    """Return the sum of usages."""
    return sum(usages, Usage())
