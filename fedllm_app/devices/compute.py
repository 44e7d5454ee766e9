"""How long local training lasts on simulated devices of unequal speed.

One local step takes a device as many seconds as its model, batch and processor make it: a key, and
a factor by client; or where devices are simulated, FLOPs of a step over FLOP/s of the device.
Together with the links of `network` it is the clock by which a simulation says who is late
(server/arrivals.py).
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import Field

from fedllm_app.core.effort import Effort
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.region import Where
from fedllm_app.core.seeds import generator
from fedllm_app.core.settings import Settings, kebab
from fedllm_app.devices.figures import read_figures
from fedllm_app.devices.fleet import Fleet

Part = Callable[[Where, ParamLayout], float]


def whole(where: Where, layout: ParamLayout) -> float:
    """Return 1: nothing is saved where less is trained."""
    return 1.0


class ComputeSettings(Settings):
    """Namespace `compute`: the simulated seconds of local training."""

    step_s: float = Field(
        0.0,
        ge=0,
        description="Simulated seconds of one local step on the median client. 0: computing takes "
        "no simulated time.",
    )
    spread: float = Field(
        0.0,
        ge=0,
        le=3,
        description="Sigma of a log-normal factor that varies compute.step-s by client.",
    )
    ratio: float = Field(
        1.0,
        ge=1,
        le=1000,
        description="How many times as long the slowest client may take as the fastest: factors "
        "are drawn evenly, on a logarithmic scale, around compute.step-s. 1: all are alike.",
    )
    file: str = Field(
        "",
        description="Absolute path of a CSV with the figures of single clients. Its columns are "
        "client, step-s.",
    )

    @property
    def on(self) -> bool:
        """Whether computing takes time."""
        return self.step_s > 0


def compute_problems(settings: ComputeSettings, devices: bool = False) -> Iterator[str]:
    """Yield what is wrong between the keys of this namespace.

    Parameters
    ----------
    devices : devices.fleet says how fast each client is.
    """
    defaults = ComputeSettings()
    if settings.on and devices:
        yield (
            f"compute.step-s is {settings.step_s:g} beside devices.fleet; expected 0, since the "
            "profile of a device says how long a step takes"
        )
    elif not settings.on and not devices:
        for name in ("spread", "ratio", "file"):
            if (value := getattr(settings, name)) != getattr(defaults, name):
                yield (
                    f"compute.{kebab(name)} is {value!r} with compute.step-s = 0; expected the "
                    "seconds of a step there, which hold for every client not in a file"
                )
    elif settings.spread and settings.ratio != 1:
        yield (
            f"compute.spread is {settings.spread:g} beside compute.ratio = {settings.ratio:g}; "
            "expected one of the two: a spread of 0, or a ratio of 1"
        )


class Compute:
    """The speeds of all clients.

    A client's factor is drawn from (run seed, client), by neither round nor job: who is slow stays
    slow. Figures from the file hold as they are.

    Parameters
    ----------
    settings : that are on, or those of a fleet.
    seed : of the run.
    fleet : says what each client trains on; None where compute.step-s says how long a step takes.
    row_flops : returns the FLOPs of an example in a local step, once it is asked.
    part : returns what part of them is computed where these coordinates are trained.

    Raises
    ------
    ConfigError
        If the file cannot be read or has a value that no step takes.
    """

    def __init__(
        self,
        settings: ComputeSettings,
        seed: int,
        fleet: Fleet | None = None,
        row_flops: Callable[[], float] = float,
        part: Part = whole,
    ) -> None:
        self._settings, self._seed, self.fleet = settings, seed, fleet
        self._row_flops, self._part = row_flops, part
        path = Path(settings.file)
        self.own = read_figures("compute.file", path, ("step-s",)) if settings.file else {}

    def step_s(self, client: str) -> float:
        """Return the seconds of one local step of a client; of a fleet's, of one row."""
        if figures := self.own.get(client):
            return figures["step_s"]
        s, factor = self._settings, 1.0
        rng = generator(self._seed, "compute", client)
        if s.spread:
            factor = math.exp(s.spread * rng.standard_normal())
        if s.ratio > 1:
            factor = s.ratio ** (rng.random() - 0.5)
        if self.fleet is not None:
            return self.flops(1) / self.fleet.of(client)["flops"] * factor
        return s.step_s * factor

    def count(self, row_flops: Callable[[], float], part: Part) -> None:
        """Take the FLOPs of an example from a model that is known only now."""
        self._row_flops, self._part = row_flops, part

    def amount(self, effort: Effort, where: Where, layout: ParamLayout) -> float:
        """Return what a job computes that trains these coordinates: its batches.

        Of devices it is its rows, in rows that train all: gradients of other tensors are saved.
        """
        if self.fleet is None:
            return float(effort.batches)
        return effort.rows * (1.0 if where is None else self._part(where, layout))

    def flops(self, amount: float) -> float:
        """Return the FLOPs of so much; 0 without devices."""
        return amount * self._row_flops()

    def seconds(self, client: str, amount: float) -> float:
        """Return the seconds that so much takes a client."""
        return amount * self.step_s(client)
