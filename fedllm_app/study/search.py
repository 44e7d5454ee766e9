"""A sweep as a file: a recipe, the keys that vary, and how their values are chosen.

    recipe = "recipes/bench-s.toml"     # beside this file, or absolute; "" for the defaults
    search = "grid"                     # or "random", "bayes"
    trials = 40                         # of random and bayes
    seed = 0

    [set]                               # the same in all runs
    "run.rounds" = 20

    [vary]
    "client.lr" = [0.01, 0.03, 0.1]                       # values, or
    "server.lr" = { low = 1e-4, high = 1e-1, log = true } # a range; not for a grid
    "run.seed" = [0, 1, 2]

A run is named by its settings, so that a sweep that is started again, or grown, finds what it has
played. What is next depends on the file and, for bayes, on the results so far.
"""

import hashlib
import itertools
import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from fedllm_app.config import RunConfig, read_recipe
from fedllm_app.core.errors import ConfigError
from fedllm_app.core.seeds import generator
from fedllm_app.core.settings import Scalar
from fedllm_app.study.sweep import Cell

Search = Literal["grid", "random", "bayes"]
MOST = 10_000  # runs of a grid
MOST_AROUND = 500  # runs that tell whether a value goes with any of the other keys
Settings = dict[str, Scalar]


@dataclass(frozen=True)
class Range:
    """A range of numbers.

    Attributes
    ----------
    low, high : both are in it; whole numbers where both are whole.
    log : evenly on a logarithmic scale.
    """

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def at(self, share: float) -> float | int:
        """Return the value at a share of the range, from 0 to 1."""
        low, high = (math.log(x) if self.log else x for x in (self.low, self.high))
        value = low + share * (high - low)
        value = min(max(math.exp(value) if self.log else value, self.low), self.high)
        return round(value) if self.whole else value


@dataclass(frozen=True)
class Sweep:
    """A sweep's file, checked.

    Attributes
    ----------
    base : settings of all runs.
    vary : values or a range by key.
    search, trials, seed : see above.
    """

    base: Settings
    vary: Mapping[str, Sequence[Scalar] | Range]
    search: Search = "grid"
    trials: int = 20
    seed: int = 0

    def cells(self) -> list[Cell]:
        """Return the runs of a grid, or of a random search."""
        chosen = self._grid() if self.search == "grid" else self._random()
        return list({cell.name: cell for cell in map(self.cell, chosen)}.values())

    def cell(self, own: Mapping[str, Scalar]) -> Cell:
        """Return the run of these values of the keys that vary."""
        settings = self.base | dict(own)
        return Cell(f"sweep-{digest(settings)}", settings)

    def around(self, fixed: Mapping[str, Scalar] | None = None) -> Iterator[Cell]:
        """Yield runs with some keys fixed: all values of the others, or ends and middle of a range.

        Where that is more than MOST_AROUND runs, so many of them.
        """
        given = dict(fixed or {})
        others = {
            key: [of.at(share) for share in (0.0, 1.0, 0.5)] if isinstance(of, Range) else of
            for key, of in self.vary.items()
            if key not in given
        }
        if math.prod(map(len, others.values())) <= MOST_AROUND:
            for values in itertools.product(*others.values()):
                yield self.cell(dict(zip(others, values, strict=True)) | given)
            return
        rng = generator(self.seed, "around")
        for _ in range(MOST_AROUND):
            drawn = {key: of[int(rng.integers(len(of)))] for key, of in others.items()}
            yield self.cell(drawn | given)

    def _grid(self) -> Iterator[Settings]:
        lists = [values for values in self.vary.values() if not isinstance(values, Range)]
        for values in itertools.product(*lists):
            yield dict(zip(self.vary, values, strict=True))

    def _random(self) -> Iterator[Settings]:
        for number in range(self.trials):
            rng = generator(self.seed, "sweep", str(number))
            yield {
                key: of.at(rng.random())
                if isinstance(of, Range)
                else of[int(rng.integers(len(of)))]
                for key, of in self.vary.items()
            }


@dataclass
class Bayes:
    """Proposes runs by their results so far (optuna's TPE), some at a time.

    Proposals depend on the sweep's seed and on the results in the order in which they are told:
    played again, the same runs are proposed.

    Parameters
    ----------
    sweep : says what varies.
    falling : the lower the better.
    """

    sweep: Sweep
    falling: bool
    _study: Any = field(init=False)

    def __post_init__(self) -> None:
        """Begin without results."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=self.sweep.seed, constant_liar=True)
        way: Literal["minimize", "maximize"] = "minimize" if self.falling else "maximize"
        self._study = optuna.create_study(sampler=sampler, direction=way)

    def ask(self, count: int) -> list[tuple[Any, Cell]]:
        """Return the next runs, each with what `tell` wants back."""
        trials = [self._study.ask() for _ in range(count)]
        return [(trial, self.sweep.cell(self._values(trial))) for trial in trials]

    def tell(self, trial: Any, value: float | None) -> None:
        """Take in a result; None is a run that failed or whose value is no number."""
        import optuna

        if value is None or not math.isfinite(value):
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(trial, value)

    def _values(self, trial: Any) -> Settings:
        found: Settings = {}
        for key, of in self.sweep.vary.items():
            if not isinstance(of, Range):
                found[key] = trial.suggest_categorical(key, list(of))
            elif of.whole:
                found[key] = trial.suggest_int(key, of.low, of.high, log=of.log)
            else:
                found[key] = trial.suggest_float(key, of.low, of.high, log=of.log)
        return found


def digest(settings: Mapping[str, Scalar]) -> str:
    """Return ten hexadecimal digits that name settings, whatever their order."""
    words = json.dumps(settings, sort_keys=True)
    return hashlib.blake2b(words.encode(), digest_size=5).hexdigest()


def read_sweep(path: Path) -> Sweep:
    """Return a sweep's file, with the settings checked of every run that is known.

    Raises
    ------
    ConfigError
        With one line for everything that is wrong in it.
    """
    try:
        words = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a sweep: {error}") from None
    known = ("recipe", "search", "trials", "seed", "set", "vary")
    problems = [f"{key} is unknown; expected any of {', '.join(known)}" for key in words
                if key not in known]  # fmt: skip
    search, seed = words.get("search", "grid"), words.get("seed", 0)
    trials = words.get("trials", 20)
    if search not in get_args(Search):
        problems.append(f"search is {search!r}; expected one of {', '.join(get_args(Search))}")
    for name, value, least in (("trials", trials, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            problems.append(f"{name} is {value!r}; expected a whole number, {least} or more")
    vary = {}
    for key, of in (words.get("vary") or {"": []}).items():
        found = _values(key, of, str(search))
        if isinstance(found, str):
            problems.append(found)
        else:
            vary[key] = found
    if problems:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems))
    recipe = words.get("recipe", "")
    base = read_recipe((path.parent / str(recipe)).resolve()) if recipe else {}
    sweep = Sweep(base | words.get("set", {}), vary, search, trials, seed)
    _check(path, sweep)
    return sweep


def _values(key: str, of: Any, search: str) -> Sequence[Scalar] | Range | str:
    """Return the values or the range of a key, or what is wrong."""
    ways = "a list of values, or { low = ..., high = ..., log = false }"
    if not key:
        return f'[vary] is empty; expected "KEY" = {ways}'
    if isinstance(of, list):
        if not of or not all(isinstance(v, bool | int | float | str) for v in of):
            return f"vary {key!r} is {of!r}; expected {ways}"
        return of
    if not isinstance(of, dict) or set(of) - {"low", "high", "log"} or {"low", "high"} - set(of):
        return f"vary {key!r} is {of!r}; expected {ways}"
    low, high, log = of["low"], of["high"], of.get("log", False)
    if search == "grid":
        return f"vary {key!r} is a range; expected a list of values, or another search than 'grid'"
    if not all(isinstance(v, int | float) for v in (low, high)) or low >= high:
        return f"vary {key!r} goes from {low!r} to {high!r}; expected numbers, low below high"
    if not isinstance(log, bool) or (log and low <= 0):
        return f"vary {key!r} has log = {log!r} and low = {low!r}; expected a low above 0 with log"
    return Range(low, high, log)


def _check(path: Path, sweep: Sweep) -> None:
    """Refuse a grid of too many runs, and settings that are known to be wrong.

    Of a grid and a random search every run is known; of bayes the ends of what varies.
    """
    if sweep.search == "grid":
        count = math.prod(len(of) for of in sweep.vary.values() if not isinstance(of, Range))
        if count > MOST:
            raise ConfigError(f"{path}: the grid has {count:,} runs; expected at most {MOST:,}")
    if sweep.search == "bayes":
        problems = list(_hopeless(sweep))
    else:
        problems = [line for cell in sweep.cells() for line in _problems(cell)]
    if problems:
        raise ConfigError("\n".join(f"{path}: {line}" for line in dict.fromkeys(problems)))


def _hopeless(sweep: Sweep) -> Iterator[str]:
    """Yield what is wrong with values, and ends of ranges, whatever the other keys are.

    What lies between is not known before it is proposed.
    """
    for key, of in sweep.vary.items():
        for value in (of.low, of.high) if isinstance(of, Range) else of:
            found: list[list[str]] = []
            for cell in sweep.around({key: value}):
                found.append(_problems(cell))
                if not found[-1]:
                    break
            else:
                always = [line for line in found[0] if all(line in lines for lines in found)]
                yield from always or found[0]


def _problems(cell: Cell) -> list[str]:
    """Return what is wrong with the settings of a run, a line each."""
    try:
        RunConfig.parse(cell.settings)
    except ConfigError as error:
        return str(error).splitlines()
    return []
