"""Say which configurations fit into a budget, and what they would cost.

Raje 2024 leaves open how rank and sparsity are to be configured. What can be told without
training is the cost: every combination of the varied keys is predicted (study/predict.py) and held
against the budget. What cannot be told, which of them learns best, is for the pilot
(study/pilot.py).

Shapes: N rounds.
"""

import itertools
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedllm_app.config import RunConfig
from fedllm_app.config.of_method import read_keys
from fedllm_app.core.errors import ConfigError
from fedllm_app.core.progress import with_progress
from fedllm_app.core.settings import Scalar
from fedllm_app.study.budget import Budget, show
from fedllm_app.study.costs import Costs
from fedllm_app.study.predict import Predictor

# What is varied unless the caller says otherwise; the configuration's own value is always among
# them, and a key is left alone where the method does not read it.
DEFAULT_AXES: dict[str, tuple[Scalar, ...]] = {
    "lora.rank": (1, 2, 4, 8, 16, 32),
    "strategy.d-down": (1.0, 1 / 4, 1 / 16),
    "strategy.d-up": (1.0, 1 / 4, 1 / 16, 1 / 64),
    "strategy.density": (1 / 2, 1 / 4, 1 / 16),
    "wire.up-values": ("fp32", "int8", "int4"),
    "wire.down-values": ("fp32", "int8"),
    "round.clients": (),
    "run.rounds": (),
}
# More of these is taken to be better, as far as cost allows. A larger rank is not: on bench-S rank
# 1 ends above 4, and 4 above 16 (docs/reproducing-floss.md, figure 5.3).
RAISED = ("strategy.d-down", "strategy.d-up", "strategy.density", "round.clients")
# Keys outside these change data, base or seed, by which candidates are compared.
VARIABLE = ("lora.rank", "lora.alpha", "lora.dropout", "round.clients", "run.rounds")
VARIABLE_SECTIONS = ("strategy", "wire", "client", "server")


@dataclass(frozen=True)
class Candidate:
    """A configuration with its predicted costs.

    Attributes
    ----------
    settings : the varied keys.
    config : all keys; run.rounds is what was asked for.
    costs : of all its rounds.
    fits : how many rounds the budget holds.
    """

    settings: Mapping[str, Scalar]
    config: RunConfig
    costs: Costs
    fits: int

    @property
    def whole(self) -> bool:
        """Whether all of its rounds fit."""
        return self.fits == self.config.run.rounds

    @property
    def affordable(self) -> Costs:
        """The costs of the rounds that fit."""
        return self.costs.first(self.fits)

    def order(self) -> tuple[float, ...]:
        """Sort: whole ones first, then by coordinates moved in the rounds that fit, then cheap."""
        c = self.affordable
        moved = int(c.up_coordinates.sum() + c.down_coordinates.sum())
        return (-int(self.whole), -moved, int(c.up_bytes.sum() + c.down_bytes.sum()))


def read_axes(config: RunConfig, asked: Sequence[str]) -> dict[str, tuple[Scalar, ...]]:
    """Return the values of every varied key: the defaults, with `KEY=V1,V2,...` put over them.

    Values that hold commas themselves, such as lists of tiers, are parted by semicolons.

    Raises
    ------
    ConfigError
        If a pair is none, or its key may not be varied or is not read by the method.
    """
    flat = config.flat()
    read = {f"strategy.{key}" for key in read_keys(config)}
    axes: dict[str, tuple[Scalar, ...]] = {}
    for key, values in DEFAULT_AXES.items():
        unread = key.startswith("strategy.") and key not in read
        if unread or (key == "lora.rank" and config.model.train != "lora"):
            continue
        axes[key] = _distinct((flat[key], *values))
    for pair in asked:
        key, equals, text = (part.strip() for part in pair.partition("="))
        section = key.partition(".")[0]
        if not equals or key not in flat or not text.strip(",; "):
            raise ConfigError(f"--vary {pair!r} is not KEY=V1,V2,..., e.g. lora.rank=4,8,16")
        if (key not in VARIABLE and section not in VARIABLE_SECTIONS) or key == "strategy.name":
            legal = ", ".join((*VARIABLE, *(f"{s}.*" for s in VARIABLE_SECTIONS)))
            raise ConfigError(f"--vary names {key!r}; expected one of {legal}, one strategy a plan")
        if section == "strategy" and key not in read:
            raise ConfigError(
                f"--vary names {key!r}, which strategy.name = {config.strategy.name!r} does not "
                f"read; it reads {', '.join(sorted(read)) or 'none'}"
            )
        if section == "lora" and config.model.train != "lora":
            raise ConfigError(f"--vary names {key!r} with model.train = {config.model.train!r}")
        words = text.split(";" if ";" in text else ",")
        axes[key] = _distinct(_value(word, flat[key]) for word in words if word.strip())
    return axes


def combinations(
    config: RunConfig, axes: Mapping[str, Sequence[Scalar]], asked: Sequence[str] = ()
) -> list[tuple[dict[str, Scalar], RunConfig]]:
    """Return the settings and the configuration of every legal combination.

    A rank keeps the configuration's alpha / rank, so that learning rates carry over, unless alpha
    is varied too.

    Parameters
    ----------
    asked : keys whose values were asked for by name: each must be legal in some combination.

    Raises
    ------
    ConfigError
        If such a value is legal in none, or no combination is legal.
    """
    flat, legal, why = config.flat(), [], dict[tuple[str, Scalar], str]()
    used: set[tuple[str, Scalar]] = set()
    scale = config.lora.alpha / config.lora.rank
    for values in itertools.product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        try:
            own = settings
            if isinstance(rank := settings.get("lora.rank"), int) and "lora.alpha" not in axes:
                own = settings | {"lora.alpha": rank * scale}
            legal.append((settings, RunConfig.parse(flat | own)))
            used.update(settings.items())
        except ConfigError as error:
            why = dict.fromkeys(settings.items(), str(error)) | why
    wrong = [why[pair] for pair in why if pair not in used and (pair[0] in asked or not legal)]
    if wrong:
        lines = [line for text in wrong for line in text.splitlines()]
        raise ConfigError("\n".join(dict.fromkeys(lines)))
    return legal


def plan(
    choices: Sequence[tuple[dict[str, Scalar], RunConfig]],
    budget: Budget,
    predictor: Predictor,
    min_rounds: int = 0,
) -> list[Candidate]:
    """Return the candidates that fit, in order.

    Parameters
    ----------
    min_rounds : a candidate is also kept if the budget holds this many of its rounds; 0 keeps
        those alone that fit as they are.

    Raises
    ------
    ConfigError
        If none fits; the message says how near the cheapest comes.
    """
    found = []
    for settings, config in with_progress(choices, "predicting"):
        costs = predictor.costs(config)
        found.append(Candidate(settings, config, costs, budget.rounds(costs)))
    kept = [c for c in found if c.fits and (c.whole or 0 < min_rounds <= c.fits)]
    if not kept:
        best = max(found, key=lambda c: c.fits)
        raise ConfigError(
            f"none of {len(found)} configurations fits: the budget holds at most {best.fits} of "
            f"{best.config.run.rounds} rounds ({label(best.settings)}). "
            + "; ".join(
                f"round 1 of it takes {show(name, used[0])} of {show(name, budget.limits[name])} "
                f"({name})"
                for name, used in budget.used(best.costs).items()
            )
            + ". Raise the budget, lower --min-rounds, or vary towards smaller values; "
            "--no-base leaves out the one-time download of the base"
        )
    return sorted(kept, key=Candidate.order)


def frontier(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return those of which no density, number of clients or rounds can be raised alone.

    FLASC-Search compares pairs of configurations by raising rank or density (Raje 2024). What
    fits and can still be raised within the budget is left out before anything is trained; of
    ranks, none is taken to be better than another.
    """

    def beats(b: Candidate, a: Candidate) -> bool:
        """Say whether `b` is `a` with something raised and nothing lowered."""
        if any(
            a.settings[k] != b.settings[k] for k in a.settings if k not in (*RAISED, "run.rounds")
        ):
            return False
        raised = [k for k in RAISED if k in a.settings]
        ours = [float(a.settings[k]) for k in raised] + [a.fits]
        theirs = [float(b.settings[k]) for k in raised] + [b.fits]
        return ours != theirs and all(x <= y for x, y in zip(ours, theirs, strict=True))

    return [a for a in candidates if not any(beats(b, a) for b in candidates)]


def label(settings: Mapping[str, Scalar]) -> str:
    """Return varied keys as a few words: `rank=4 d-up=1/16`."""
    return " ".join(f"{key.partition('.')[2]}={fraction(v)}" for key, v in settings.items())


def fraction(value: Scalar) -> str:
    """Return a value as people write it: 0.0625 is `1/16`."""
    if isinstance(value, float) and 0 < value < 1 and (1 / value).is_integer():
        return f"1/{1 / value:.0f}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _value(word: str, like: Scalar) -> Scalar:
    """Return a value as the run-config has it; `1/16` is a number where one belongs."""
    word = word.strip()
    if isinstance(like, str):
        return word.strip("\"'")
    top, slash, bottom = word.partition("/")
    try:
        if slash and isinstance(like, float):
            return float(top) / float(bottom)
        value: Any = tomllib.loads(f"value = {word}")["value"]
    except (ValueError, ZeroDivisionError):
        return word  # refused with the key's own sentence
    return float(value) if isinstance(like, float) and isinstance(value, int) else value


def _distinct(values: Iterable[Scalar]) -> tuple[Scalar, ...]:
    """Return values sorted, each once."""
    return tuple(sorted(dict.fromkeys(values), key=lambda v: (isinstance(v, str), v)))
