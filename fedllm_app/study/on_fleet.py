"""What a finished run would have cost on another fleet: seconds and joules after each round.

Who takes part in a round follows from the run's seed; which class a client is of, from that of the
fleet. So the clock and the meter of the run itself can be asked again, without training: where
every device trains, sends and waits for the others as it did, another fleet changes neither the
model nor the bytes. That does not hold for deadlines, asynchronous rounds, nor for plans that
follow the device.

Shapes: N rounds, n clients of a round, C clients there are, D classes.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fedllm_app.core.errors import ConfigError
from fedllm_app.devices.compute import Compute, ComputeSettings
from fedllm_app.devices.fleet import DeviceSettings, Fleet, device_problems
from fedllm_app.devices.meter import Meter, Usage
from fedllm_app.devices.network import Network, NetworkSettings
from fedllm_app.server.sampling import sample_cohort
from fedllm_app.study.observed import Observed

DRAWS = 8  # of a fleet's classes
UNUSED = ("memory", "available")  # figures that costs do not depend on
GOALS = {"time": "s", "energy": "J", "compute": "FLOP", "bytes": "B"}


class Spent(NamedTuple):
    """What a run has spent after each of N rounds, a mean over the draws of a fleet.

    Attributes
    ----------
    time, energy, compute, bytes : float64 of shape (N,).
    """

    time: np.ndarray
    energy: np.ndarray
    compute: np.ndarray
    bytes: np.ndarray


@dataclass(frozen=True)
class OnFleet:
    """Reckons runs on one fleet.

    Attributes
    ----------
    fleet : classes with their shares, as in devices.fleet.
    files : profiles of one's own, as in devices.files.
    scale : how many times as large the model is as that of the runs: FLOPs and bytes of a job are
        as many times more.
    draws : of the classes of all clients; the first is that of the run's seed.

    Raises
    ------
    ConfigError
        If the fleet is wrong.
    """

    fleet: str
    files: str = ""
    scale: float = 1.0
    draws: int = DRAWS
    settings: DeviceSettings = field(init=False)
    _known: dict[tuple[float, ...], Spent] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Check the fleet."""
        settings = DeviceSettings(fleet=self.fleet, files=self.files)
        if problems := list(device_problems(settings)):
            raise ConfigError("\n".join(problems))
        object.__setattr__(self, "settings", settings)

    def spent(self, run: Observed) -> Spent:
        """Return what a run spends on this fleet; runs that trained and sent alike spend alike."""
        key = (run.flops, run.up_bytes, run.down_bytes, run.rounds, run.clients, run.population,
               run.seed)  # fmt: skip
        if key not in self._known:
            self._known[key] = self._spent(run)
        return self._known[key]

    def _spent(self, run: Observed) -> Spent:
        cohorts_Nn = _cohorts(run.population, run.clients, run.seed, run.rounds)
        drawn = [self._drawn(run, cohorts_Nn, run.seed + draw) for draw in range(self.draws)]
        time, energy = (np.mean([one[i] for one in drawn], axis=0) for i in (0, 1))
        done = self.scale * np.arange(1, run.rounds + 1) / run.rounds
        return Spent(time, energy, done * run.flops, done * (run.up_bytes + run.down_bytes))

    def _drawn(
        self, run: Observed, cohorts_Nn: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return seconds and joules after each round, each of shape (N,), by one draw."""
        classes_C, names = _classes(self.settings, seed, run.population)
        usages = [self._usage(run, Fleet(self.settings, seed), name) for name in names]
        took_D = np.array([u.compute_s + u.down_s + u.up_s for u in usages])
        joules_D = np.array([u.energy_j for u in usages])
        known = Fleet(self.settings, seed).profiles
        idle_D = np.array([known[u.device]["idle-power"] for u in usages])
        of_Nn = classes_C[cohorts_Nn]
        lasts_N = took_D[of_Nn].max(axis=1)
        waits_Nn = lasts_N[:, None] - took_D[of_Nn]
        energy_N = (joules_D[of_Nn] + idle_D[of_Nn] * waits_Nn).sum(axis=1)
        return np.cumsum(lasts_N), np.cumsum(energy_N)

    def _usage(self, run: Observed, fleet: Fleet, client: str) -> Usage:
        """Return what one job of a client costs, without waiting."""
        each = self.scale / run.jobs
        compute = Compute(ComputeSettings(), run.seed, fleet, lambda: each * run.flops)
        network = Network(NetworkSettings(), run.seed, compute)
        down, up = round(each * run.down_bytes), round(each * run.up_bytes)
        return Meter(fleet, network).usage(client, down, up, 1)

    @property
    def assumed(self) -> list[str]:
        """Figures that costs depend on and nobody measured, as "class: figure, ..."."""
        profiles, found = Fleet(self.settings, 0).profiles, []
        for part in self.fleet.split(","):
            name = part.partition("=")[0].strip()
            figures = profiles[name].figures.items()
            guessed = [k for k, one in figures if one.kind == "assumed" and k not in UNUSED]
            found += [f"{name}: {', '.join(guessed)}"] if guessed else []
        return found


@lru_cache(maxsize=256)
def _cohorts(population: int, clients: int, seed: int, rounds: int) -> np.ndarray:
    """Return who takes part in each round, int64 of shape (N, n)."""
    counts = {str(number): 1 for number in range(population)}
    drawn = (sample_cohort(counts, clients, seed, t) for t in range(1, rounds + 1))
    return np.array([[int(client) for client in cohort] for cohort in drawn])


@lru_cache(maxsize=256)
def _classes(
    settings: DeviceSettings, seed: int, population: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the class of each client as a number, of shape (C,), and a client of each class."""
    fleet = Fleet(settings, seed)
    names = [fleet.of(str(number)).name for number in range(population)]
    order = list(dict.fromkeys(names))
    firsts = tuple(str(names.index(name)) for name in order)
    return np.array([order.index(name) for name in names]), firsts
