"""Which class of devices each simulated client is: by shares that the seed deals, or by a CSV."""

import csv
import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path

from pydantic import Field, field_validator

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.seeds import generator
from fedllm_app.core.settings import Settings
from fedllm_app.devices.profile import Profile, read_profiles

MOST_ASKED = 10_000  # clients whose classes are looked up at once


class DeviceSettings(Settings):
    """Namespace `devices`: what simulated clients train on."""

    fleet: str = Field(
        "",
        description="Classes of devices with their shares of the clients, such as "
        "phone=0.6,wearable=0.1,pc=0.3. Seconds and joules are simulated by their profiles "
        "(`fedllm devices`); of real devices the classes count, not the shares. Empty: no devices.",
    )
    file: str = Field(
        "",
        description="Absolute path of a CSV with the columns client, class. Clients that it does "
        "not name are dealt out by devices.fleet.",
    )
    files: str = Field(
        "",
        description="Absolute paths of device profiles (TOML) beside those of fedllm, with commas "
        "between them.",
    )

    tier_steps: str = Field(
        "",
        description="Local steps of each tier, separated by commas, such as '4,16': classes of "
        "devices in order of speed, the slowest first. Empty: client.steps for all.",
    )
    tier_batches: str = Field(
        "",
        description="Examples in a batch of each tier, separated by commas, such as '4,16'. "
        "Empty: client.batch for all.",
    )
    balance: bool = Field(
        False,
        description="Divide a round's local steps among its clients so that they finish together: "
        "as many in all as with client.steps each.",
    )
    balance_most: float = Field(
        4.0,
        ge=1,
        le=1000,
        description="How many times client.steps a fast device takes at most with devices.balance.",
    )

    balance_density: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of its density that an upload over a slow link keeps at least with "
        "devices.balance, where the device chooses what it sends. 1 leaves densities alone.",
    )

    available: bool = Field(
        False,
        description="A simulated client is there in as many rounds as its class is available, and "
        "only those that are there are sampled. false: all are always there.",
    )

    @field_validator("tier_steps", "tier_batches")
    @classmethod
    def _are_counts(cls, text: str) -> str:
        if text and not all(w.strip().isdecimal() and int(w) for w in text.split(",")):
            raise ValueError("whole numbers from 1, such as '4,16'")
        return text

    @property
    def steps(self) -> list[int]:
        """Local steps of each tier, [] where client.steps says it."""
        return _counts(self.tier_steps)

    @property
    def batches(self) -> list[int]:
        """Examples in a batch of each tier, [] where client.batch says it."""
        return _counts(self.tier_batches)

    def most_rows(self, steps: int, batch: int) -> int:
        """Return the most rows of a job of any tier, by client.steps and client.batch."""
        most = max((*self.steps, 0 if self.steps else steps))
        return most * max((*self.batches, 0 if self.batches else batch))

    @property
    def tiered(self) -> bool:
        """Whether steps or batches follow the class of the device."""
        return bool(self.tier_steps or self.tier_batches)

    @property
    def on(self) -> bool:
        """Whether there are classes of devices: simulated ones, or those that real ones say."""
        return bool(self.fleet or self.file)


def device_problems(settings: DeviceSettings) -> Iterator[str]:
    """Yield what is wrong with this namespace."""
    if settings.files and not settings.on:
        yield (
            f"devices.files is {settings.files!r} and no device is simulated; expected "
            "devices.fleet, such as phone=0.6,pc=0.4"
        )
    try:
        known = read_profiles(map(Path, paths_in(settings.files)))
    except ConfigError as error:
        yield from (f"devices.files: {line}" for line in str(error).splitlines())
        return
    if settings.file and not settings.fleet:
        yield (
            f"devices.file is {settings.file!r} without devices.fleet; expected shares for the "
            "clients that the file does not name, such as phone=1"
        )
    elif settings.fleet:
        yield from share_problems(settings.fleet, known)


def share_problems(fleet: str, known: Mapping[str, Profile]) -> Iterator[str]:
    """Yield what is wrong with the shares of a fleet."""
    total, seen = 0.0, Counter[str]()
    for part in fleet.split(","):
        name, _, text = (word.strip() for word in part.partition("="))
        seen[name] += 1
        if name not in known:
            yield (
                f"devices.fleet names {name!r}; expected any of {', '.join(known)}, or a class "
                "of devices.files"
            )
        try:
            share = float(text)
        except ValueError:
            share = math.nan
        if not 0 < share <= 1:
            yield f"devices.fleet has {part.strip()!r}; expected NAME=SHARE, above 0 and at most 1"
            return
        total += share
    if twice := [name for name, times in seen.items() if times > 1]:
        yield f"devices.fleet names {', '.join(twice)} twice; expected each class once"
    if abs(total - 1) > 1e-6:
        yield f"devices.fleet is {fleet!r}, shares that sum to {total:g}; expected 1"


class Fleet:
    """The class of every client.

    A client's class is drawn from (run seed, client) by the shares, so it does not depend on who
    else is there; a file says it of single clients.

    Parameters
    ----------
    settings : that are on and have no problem.
    seed : of the run.

    Raises
    ------
    ConfigError
        If the file cannot be read or names a class that there is not.
    """

    def __init__(self, settings: DeviceSettings, seed: int) -> None:
        known = read_profiles(map(Path, paths_in(settings.files)))
        pairs = [part.partition("=") for part in settings.fleet.split(",")]
        self.settings, self.profiles = settings, known
        self._shares = [(name.strip(), float(share)) for name, _, share in pairs]
        self._seed = seed
        self.own = _classes(Path(settings.file), known) if settings.file else {}

    def of(self, client: str) -> Profile:
        """Return the profile of a client, of any name."""
        if name := self.own.get(client):
            return self.profiles[name]
        drawn = generator(self._seed, "devices", client).random()
        upto = itertools.accumulate(share for _, share in self._shares)
        names = (own for (own, _), end in zip(self._shares, upto, strict=True) if drawn < end)
        return self.profiles[next(names, self._shares[-1][0])]

    @cached_property
    def order(self) -> list[str]:
        """The classes that clients can be of, the slowest first."""
        names = {name for name, _ in self._shares} | set(self.own.values())
        return sorted(names, key=lambda name: (self.profiles[name]["flops"], name))

    def tier(self, client: str, tiers: int) -> int:
        """Return a client's tier by how fast its class is: 0 for the slowest classes."""
        return self.tier_of(self.of(client).name, tiers)

    def tier_of(self, name: str, tiers: int) -> int:
        """Return the tier of a class."""
        return self.order.index(name) * tiers // len(self.order)

    def present(self, clients: Collection[str]) -> list[str]:
        """Return the classes that some of these clients are of, the slowest first.

        All that there can be, where no client is known or there are too many to ask.
        """
        if not 0 < len(clients) <= MOST_ASKED:
            return self.order
        found = {self.of(client).name for client in clients}
        return [name for name in self.order if name in found]

    def counts(self, clients: Collection[str]) -> dict[str, int]:
        """Return how many of the clients are of each class."""
        return dict(sorted(Counter(self.of(client).name for client in clients).items()))


def _counts(text: str) -> list[int]:
    """Return the numbers of tiers, which have commas between them."""
    return [int(word) for word in text.split(",")] if text else []


def paths_in(files: str) -> list[str]:
    """Return the paths of devices.files, which has commas between them."""
    return [name.strip() for name in files.split(",") if name.strip()]


def _classes(path: Path, known: Mapping[str, Profile]) -> dict[str, str]:
    """Return the classes of single clients."""
    named, found, problems = f"devices.file {str(path)!r}", dict[str, str](), list[str]()
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            head = [name.strip() for name in next(rows, [])]
            if sorted(head) != ["class", "client"]:
                raise ConfigError(f"{named} has columns {head}; expected client and class")
            for cells in filter(None, rows):
                row = dict(zip(head, (cell.strip() for cell in cells), strict=False))
                client, name = row.get("client", ""), row.get("class", "")
                if not client or client in found:
                    problems.append(
                        f"line {rows.line_num}: client is {client!r}; expected a new one"
                    )
                if name not in known:
                    told = ", ".join(known)
                    problems.append(
                        f"line {rows.line_num}: class is {name!r}; expected any of {told}"
                    )
                found[client] = name
    except (OSError, UnicodeError, csv.Error) as error:
        raise ConfigError(f"{named} cannot be read ({error}); expected a CSV") from None
    if problems:
        raise ConfigError("\n".join(f"{named} {problem}" for problem in problems[:10]))
    return found
