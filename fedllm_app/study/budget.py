"""What may be spent, over a whole run or in every round, and how much of a run that pays for.

Shapes: N rounds.
"""

from dataclasses import dataclass, replace

import numpy as np

from fedllm_app.core.units import format_bytes, format_joules, format_seconds
from fedllm_app.study.costs import Costs

MB = 1e6


@dataclass(frozen=True)
class Budget:
    """What may be spent; 0 is no limit.

    Attributes
    ----------
    up_mb, down_mb, both_mb : megabytes (10^6 bytes) of all clients together.
    seconds : of the network, round after round.
    energy_j : joules of all simulated devices.
    per_round : the limits hold for every single round, the base apart, instead of the whole run.
    base : the one-time download of the base counts, as download and as time.
    """

    up_mb: float = 0.0
    down_mb: float = 0.0
    both_mb: float = 0.0
    seconds: float = 0.0
    per_round: bool = False
    base: bool = True
    energy_j: float = 0.0

    @property
    def limits(self) -> dict[str, float]:
        """Return the limits there are, in bytes, seconds and joules."""
        mb = {"up": self.up_mb, "down": self.down_mb, "both": self.both_mb}
        all_ = {name: MB * value for name, value in mb.items()} | {"seconds": self.seconds}
        all_ |= {"joules": self.energy_j}
        return {name: value for name, value in all_.items() if value}

    def used(self, costs: Costs) -> dict[str, np.ndarray]:
        """Return what each round takes of each limit, arrays of shape (N,)."""
        counts = int(self.base and not self.per_round)
        down = costs.down_bytes + counts * costs.base_bytes
        ways = {
            "up": costs.up_bytes,
            "down": down,
            "both": costs.up_bytes + down,
            "seconds": costs.seconds + counts * costs.base_s,
            "joules": costs.energy_j,
        }
        return {name: ways[name] for name in self.limits}

    def rounds(self, costs: Costs) -> int:
        """Return how many of the rounds, from the first on, fit."""
        most = costs.rounds
        for name, used in self.used(costs).items():
            taken = used if self.per_round else np.cumsum(used)
            beyond = np.flatnonzero(taken > self.limits[name])
            most = min(most, int(beyond[0]) if beyond.size else most)
        return most

    def share(self, share: float, rounds: int) -> "Budget":
        """Return a share of the whole, without the base; a limit per round is of `rounds`."""
        factor = share * (rounds if self.per_round else 1)
        return replace(self._times(factor), per_round=False, base=False)

    def left(self, share: float) -> "Budget":
        """Return what stays once a share is spent; a limit per round stays as it is."""
        return self if self.per_round else self._times(1 - share)

    def _times(self, factor: float) -> "Budget":
        names = ("up_mb", "down_mb", "both_mb", "seconds", "energy_j")
        return replace(self, **{name: factor * getattr(self, name) for name in names})


def show(name: str, amount: float) -> str:
    """Return an amount of a limit with its unit."""
    if name == "joules":
        return format_joules(amount)
    return format_seconds(amount) if name == "seconds" else format_bytes(amount)
