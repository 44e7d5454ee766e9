"""What a class of devices can do: figures with their unit, source and kind, from TOML files.

A profile is a table of figures, each a table of its own:

    name = "board"
    about = "a board with 4 GB"

    [flops]
    value = 4e10
    unit = "FLOP/s"
    kind = "measured"            # or "specified", "assumed"
    source = "where it stands"

`flops` is what a training run sustains, never the peak of a data sheet.
"""

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fedllm_app.core.errors import ConfigError

KINDS = ("measured", "specified", "assumed")
# Figure, unit, and what it may not be above; all but the last three are above 0.
UNITS = {
    "flops": ("FLOP/s", math.inf),
    "memory": ("B", math.inf),
    "compute-power": ("W", math.inf),
    "radio-power": ("W", math.inf),
    "down": ("Mbps", math.inf),
    "up": ("Mbps", math.inf),
    "idle-power": ("W", math.inf),
    "latency": ("ms", math.inf),
    "available": ("share", 1.0),
}
FROM_ZERO = ("idle-power", "latency")
KNOWN = Path(__file__).with_name("profiles")


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes
    ----------
    value : in `unit`.
    unit : as in UNITS.
    kind : "measured", "specified" or "assumed".
    source : where it is from.
    """

    value: float
    unit: str
    kind: str
    source: str


@dataclass(frozen=True)
class Profile:
    """A class of devices.

    Attributes
    ----------
    name : of the class.
    about : what it stands for, in a few words.
    figures : by name, all of UNITS.
    """

    name: str
    about: str
    figures: Mapping[str, Figure]

    def __getitem__(self, name: str) -> float:
        """Return the value of a figure."""
        return self.figures[name].value


def read_profile(path: Path) -> Profile:
    """Return the profile of a file.

    Raises
    ------
    ConfigError
        If it cannot be read, or with one line for each field that is wrong.
    """
    try:
        words = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"device profile {path} cannot be read ({error}); expected TOML"
        ) from None
    name, about = words.pop("name", path.stem), words.pop("about", "")
    problems = [
        f"{field} is {value!r}; expected text"
        for field, value in (("name", name), ("about", about))
        if not isinstance(value, str)
    ]
    if isinstance(name, str):
        problems += name_problems(name)
    problems += [
        f"{field} is unknown; expected any of name, about, {', '.join(UNITS)}"
        for field in words.keys() - UNITS.keys()
    ]
    figures = {}
    for field in UNITS:
        found = _figure(field, words.get(field))
        if isinstance(found, Figure):
            figures[field] = found
        else:
            problems += found
    if problems:
        raise ConfigError("\n".join(f"device profile {path}: {problem}" for problem in problems))
    return Profile(name, about, figures)


def name_problems(name: str) -> list[str]:
    """Return what is wrong with the name of a class."""
    if name and not set(name) & set(",= "):
        return []
    return [f"name is {name!r}; expected a word without commas, spaces and ="]


def _figure(field: str, words: Any) -> Figure | list[str]:
    """Return a figure, or what is wrong with it."""
    unit, most = UNITS[field]
    if not isinstance(words, dict):
        return [f"[{field}] is missing; expected value, unit = {unit!r}, kind and source"]
    given, kind, source = words.get("value"), words.get("kind"), words.get("source")
    problems = []
    value = math.nan
    if isinstance(given, int | float) and not isinstance(given, bool):
        value = float(given)
    zero = value == 0 and field not in FROM_ZERO
    if not math.isfinite(value) or not 0 <= value <= most or zero:
        least = "0 or more" if field in FROM_ZERO else "above 0"
        upto = f", at most {most:g}" if most < math.inf else ""
        problems.append(f"{field}.value is {given!r}; expected a number, {least}{upto}")
    if words.get("unit") != unit:
        problems.append(f"{field}.unit is {words.get('unit')!r}; expected {unit!r}")
    if kind not in KINDS:
        problems.append(f"{field}.kind is {kind!r}; expected one of {', '.join(KINDS)}")
    if not isinstance(source, str) or not source:
        problems.append(f"{field}.source is {source!r}; expected where the figure is from")
    problems += [
        f"{field}.{extra} is unknown; expected value, unit, kind, source"
        for extra in words.keys() - {"value", "unit", "kind", "source"}
    ]
    return problems or Figure(value, unit, str(kind), str(source))


def read_profiles(paths: Iterable[Path] = ()) -> dict[str, Profile]:
    """Return the profiles of this package by name, and those of more files over them.

    Raises
    ------
    ConfigError
        If one is wrong, with what is wrong in all of them.
    """
    found, problems = dict(_known()), []
    for path in paths:
        try:
            profile = read_profile(path)
            found[profile.name] = profile
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return found


@cache
def _known() -> dict[str, Profile]:
    """Return the profiles of this package, read once."""
    return {p.name: p for p in map(read_profile, sorted(KNOWN.glob("*.toml")))}
