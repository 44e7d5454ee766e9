"""A simulated clock: how long a round would have lasted on devices and links of a given speed.

A simulation sends its payloads through memory; this says what the ledger's bytes would have taken
over a network. A participant takes its download, then its local steps where `compute` says how
long one lasts, and then its upload. A round lasts as long as its slowest participant, and a run as
long as its rounds together.

`Network.participant_seconds` is the one place where a participant's time is put together. The
one-time download of the base model is a row of the ledger and no part of any round, so it is
outside this clock.

Source of the presets: Raje 2024: 200 Mbps down and 20 Mbps up, and uploads 1, 4 and 16 times
slower than the download.
"""

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from fedllm_app.core.effort import Effort
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.region import Where
from fedllm_app.core.seeds import generator
from fedllm_app.core.settings import Settings, kebab
from fedllm_app.devices.compute import Compute, ComputeSettings, Part, whole
from fedllm_app.devices.figures import MISTAKES_SHOWN, read_figures
from fedllm_app.devices.fleet import Fleet

log = logging.getLogger("fedllm")

# Mbps down and up.
PRESETS = {
    "thesis": (200.0, 20.0),
    "thesis-1x": (200.0, 200.0),
    "thesis-4x": (200.0, 50.0),
    "thesis-16x": (200.0, 12.5),
}
COLUMNS = ("down-mbps", "up-mbps", "latency-ms")
KEY = "network.file"


class NetworkSettings(Settings):
    """Namespace `network`: the links that a round's simulated seconds are reckoned over."""

    preset: Literal["", "thesis", "thesis-1x", "thesis-4x", "thesis-16x"] = Field(
        "",
        description="Mbps down/up: thesis 200/20, thesis-1x 200/200, thesis-4x 200/50, "
        "thesis-16x 200/12.5. Empty: no preset.",
    )
    down_mbps: float = Field(
        0.0,
        ge=0,
        description="Mbps of a download. 0 takes the value of the preset. With neither, no "
        "time is simulated.",
    )
    up_mbps: float = Field(
        0.0,
        ge=0,
        description="Mbps of an upload. 0 takes the value of the preset. With neither, no "
        "time is simulated.",
    )
    latency_ms: float = Field(
        0.0,
        ge=0,
        description="One-way latency in milliseconds, added once to each download and once to "
        "each upload.",
    )
    spread: float = Field(
        0.0,
        ge=0,
        le=3,
        description="Sigma of a log-normal factor that varies the Mbps of the clients. A "
        "client has the same factor in both directions.",
    )
    file: str = Field(
        "",
        description="Absolute path of a CSV with the links of single clients. Its columns are "
        "client, down-mbps, up-mbps, latency-ms. An empty cell takes the value of "
        "the key.",
    )

    @property
    def on(self) -> bool:
        """Whether there is a clock."""
        resolved = self.resolved()
        return bool(resolved.down_mbps and resolved.up_mbps)

    def resolved(self) -> "NetworkSettings":
        """Return the settings with the preset's Mbps in place of zeros."""
        down, up = PRESETS.get(self.preset, (0.0, 0.0))
        given = {"down_mbps": self.down_mbps or down, "up_mbps": self.up_mbps or up}
        return self.model_copy(update=given)


def automatic_words(settings: NetworkSettings) -> dict[str, str]:
    """Return what the keys that are still "" or 0 stand for, by dotted name."""
    if settings.on:
        return {"network.preset": "the Mbps given"}
    off = "no limit known, no simulated seconds"
    return {"network.preset": "off"} | dict.fromkeys(("network.down-mbps", "network.up-mbps"), off)


def network_problems(settings: NetworkSettings) -> Iterator[str]:
    """Yield what is wrong between the keys of this namespace."""
    known = PRESETS.get(settings.preset)
    one, other = settings.down_mbps, settings.up_mbps
    if known is not None:
        for name, value, has in zip(("down-mbps", "up-mbps"), (one, other), known, strict=True):
            if value not in (0, has):
                yield (
                    f"network.{name} is {value:g} beside network.preset = {settings.preset!r}, "
                    f"which has {has:g}; expected one of the two: no preset, or 0 here"
                )
    elif bool(one) != bool(other):
        lacking, given = ("up-mbps", "down-mbps") if one else ("down-mbps", "up-mbps")
        yield (
            f"network.{lacking} is 0 with network.{given} = {one or other:g}; expected Mbps of "
            f"both, or network.preset, one of {', '.join(PRESETS)}"
        )
    elif not one:
        for name in ("latency_ms", "spread", "file"):
            if value := getattr(settings, name):
                yield (
                    f"network.{kebab(name)} is {value!r} and there is no network; set "
                    f"network.preset (one of {', '.join(PRESETS)}), or network.down-mbps and "
                    "network.up-mbps, which hold for every client not in a file"
                )


@dataclass(frozen=True)
class Link:
    """What joins one client to the server.

    Attributes
    ----------
    down_mbps, up_mbps : millions of bits a second, above 0.
    latency_ms : one way, 0 or more.
    """

    down_mbps: float
    up_mbps: float
    latency_ms: float = 0.0

    def seconds(self, down_bytes: int | None, up_bytes: int | None = None) -> float:
        """Return the seconds of a download and the upload after it; None is a way not taken.

        25 MB at 200 Mbps is 1 s.
        """
        seconds = 0.0
        for size, mbps in ((down_bytes, self.down_mbps), (up_bytes, self.up_mbps)):
            if size is not None:
                seconds += self.latency_ms / 1e3 + 8 * size / (1e6 * mbps)
        return seconds


# Bytes down, and up or None where nothing came, by client.
Traffic = Mapping[str, tuple[int, int | None]]


class Network:
    """The links and local steps of all clients, and how long a round takes.

    A client's factor is drawn from (run seed, client) and is the same for both ways, so that
    `network.spread` makes clients faster and slower but keeps the asymmetry of their links; the
    median client has the keys' Mbps. Figures from the file hold as they are.

    Parameters
    ----------
    settings : of the links; where they are off, no time is spent on the way.
    seed : of the run.
    compute : how long local steps last, None for no time.

    Raises
    ------
    ConfigError
        If the file cannot be read or has a value that no link has.
    """

    def __init__(
        self, settings: NetworkSettings, seed: int, compute: Compute | None = None
    ) -> None:
        self._settings, self._seed, self._compute = settings.resolved(), seed, compute
        path = Path(settings.file)
        self.own = read_figures(KEY, path, COLUMNS, COLUMNS[2:]) if settings.file else {}

    def link(self, client: str) -> Link:
        """Return the link of a client, of any name."""
        s, factor = self._settings, 1.0
        if not s.on and not self.own and self.fleet is None:  # computing alone takes time
            return Link(math.inf, math.inf)
        if s.spread:
            drawn = generator(self._seed, "network", client).standard_normal()
            factor = math.exp(s.spread * drawn)
        base = Link(s.down_mbps * factor, s.up_mbps * factor, s.latency_ms)
        if not s.on and self.fleet is not None:
            its = self.fleet.of(client)
            base = Link(its["down"] * factor, its["up"] * factor, its["latency"])
        return replace(base, **self.own.get(client, {}))

    @property
    def fleet(self) -> Fleet | None:
        """What each client trains on, None where no devices are simulated."""
        return self._compute.fleet if self._compute else None

    def count(self, row_flops: Callable[[], float], part: Part) -> None:
        """Take the FLOPs of an example from a model that is known only now."""
        if self._compute:
            self._compute.count(row_flops, part)

    def amount(self, effort: Effort, where: Where, layout: ParamLayout) -> float:
        """Return what a job computes that trains these coordinates (`Compute.amount`)."""
        return self._compute.amount(effort, where, layout) if self._compute else 0.0

    def compute_seconds(self, client: str, amount: float) -> float:
        """Return how long so much takes a client, 0 where computing takes no time."""
        return self._compute.seconds(client, amount) if self._compute else 0.0

    def flops(self, amount: float) -> float:
        """Return the FLOPs of so much, 0 without devices."""
        return self._compute.flops(amount) if self._compute else 0.0

    def warn_of_strangers(self, clients: Collection[str]) -> None:
        """Log names in the files that no client has: their figures would be used by nobody."""
        of_compute = self._compute.own if self._compute else {}
        for key, own in ((KEY, self.own), ("compute.file", of_compute)):
            if strangers := sorted(own.keys() - set(clients)):
                shown, count = ", ".join(strangers[:MISTAKES_SHOWN]), len(strangers)
                log.warning("%s names %d clients that are not in the data: %s", key, count, shown)

    def participant_seconds(
        self, client: str, down_bytes: int | None, up_bytes: int | None = None, amount: float = 0
    ) -> float:
        """Return how long one client takes for a job: download, local steps, upload."""
        seconds = self.link(client).seconds(down_bytes, up_bytes)
        return seconds + self.compute_seconds(client, amount)

    def round_seconds(self, traffic: Traffic, amounts: Mapping[str, float] | None = None) -> float:
        """Return how long a round lasts: as long as its slowest participant, 0 without any.

        Parameters
        ----------
        amounts : what each client computes; nothing where it does not say.
        """
        taken = amounts or {}
        each = (self.participant_seconds(c, *both, taken.get(c, 0)) for c, both in traffic.items())
        return max(each, default=0.0)


def network_of(
    settings: NetworkSettings,
    seed: int,
    compute: ComputeSettings | None = None,
    fleet: Fleet | None = None,
    row_flops: Callable[[], float] = float,
    part: Part = whole,
) -> Network | None:
    """Return the clock of a run, None where none runs: neither over links nor over local steps.

    Parameters
    ----------
    fleet, row_flops, part : as in `Compute`.
    """
    steps = None
    if compute and (compute.on or fleet is not None):
        steps = Compute(compute, seed, fleet, row_flops, part)
    return Network(settings, seed, steps) if settings.on or steps else None
