"""What finished runs say to the guide: settings, perplexity as it fell, and what each job cost.

A row is plain JSON, so that results may be read where the runs' folders are not. Its FLOPs and
bytes are sums over the run. Every job is taken to have its equal share of them, which is exact
where all clients train and send alike, and a mean where each trains a part of its own. A loss that
is null was no number: the run diverged.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, inf, isfinite
from pathlib import Path
from typing import Any

from fedllm_app.core.errors import ConfigError, DataError
from fedllm_app.core.settings import Scalar
from fedllm_app.server.methods import STRATEGIES
from fedllm_app.server.methods.settings import StrategySettings

Row = dict[str, Any]
NEEDED = (
    "run", "settings", "curve", "rounds", "clients", "population", "seed", "flops", "up-bytes",
    "down-bytes", "parameters", "tokens",
)  # fmt: skip
LARGEST = 700.0  # a loss whose perplexity a float still holds


@dataclass(frozen=True)
class Observed:
    """One finished run.

    Attributes
    ----------
    name : of the run.
    settings : what it was asked for, by dotted key.
    curve : held-out loss by round, round 0 left out; infinite where it was no number.
    rounds, clients, population : rounds, clients of a round, clients there are.
    seed : of the run.
    flops, up_bytes, down_bytes : of all jobs together.
    parameters : trainable ones.
    tokens : that were trained on.
    asked : rounds that its schedule was made for; it may have ended before.
    derived : keys of which its study says that they follow from the others.
    """

    name: str
    settings: Mapping[str, Scalar]
    curve: Mapping[int, float]
    rounds: int
    clients: int
    population: int
    seed: int
    flops: float
    up_bytes: float
    down_bytes: float
    parameters: int
    tokens: int
    asked: int
    derived: frozenset[str] = frozenset()

    @property
    def portable(self) -> bool:
        """Whether it would have been the same on another fleet: nothing followed the device."""
        asked = {
            key.removeprefix("strategy."): value
            for key, value in self.settings.items() if key.startswith("strategy.")
        }  # fmt: skip
        strategy = StrategySettings.model_validate(asked)
        method = STRATEGIES.get(strategy.name)  # a result imports no module that it names
        follows = method is not None and method.tiered(strategy)
        follows |= any(self.settings.get(f"devices.tier-{k}") for k in ("steps", "batches"))
        waits = self.settings.get("round.pacing", "sync") == "sync"
        follows |= any(self.settings.get(f"devices.{key}") for key in ("balance", "available"))
        return waits and not follows

    @property
    def jobs(self) -> int:
        """How many jobs its FLOPs and bytes are the sum of."""
        return self.rounds * self.clients

    @cached_property
    def read(self) -> Mapping[str, Scalar | None]:
        """Every key with its value, automatic ones filled in; None where its run does not read it.

        Of settings that this version cannot read, the defaults with what was asked for.
        """
        from fedllm_app.config import RunConfig
        from fedllm_app.config.unread import unread_keys

        try:
            own = RunConfig.parse(self.settings).resolved().flat()
        except ConfigError:
            return RunConfig().flat() | dict(self.settings)
        return own | dict.fromkeys(unread_keys(self.settings))

    @property
    def diverged(self) -> bool:
        """Whether its loss became no number."""
        return not all(map(isfinite, self.curve.values()))

    def loss_at(self, round_: int) -> float | None:
        """Return its loss after a round, None where it was not evaluated.

        A run that has ended stays as it is.
        """
        last = max(self.curve)
        return self.curve[last] if round_ >= last else self.curve.get(round_)


def observed(row: Row, path: Path | str = "") -> Observed:
    """Return the run of a row.

    Raises
    ------
    DataError
        If it lacks something.
    """
    lacks = [key for key in NEEDED if key not in row]
    if lacks or not row["curve"]:
        words = ", ".join(lacks) or "an evaluation in its curve"
        raise DataError(f"{path}: row {row.get('run')!r} lacks {words}")
    losses = {int(t): inf if loss is None else loss for t, loss in row["curve"].items()}
    asked = row.get("asked") or row["settings"].get("run.rounds") or row["rounds"]
    return Observed(
        row["run"], row["settings"], losses, row["rounds"], row["clients"], row["population"],
        row["seed"], row["flops"], row["up-bytes"], row["down-bytes"], row["parameters"],
        row["tokens"], asked, frozenset(row.get("derived", ())),
    )  # fmt: skip


def of_one_size(
    runs: Sequence[Observed], clients: int = 0, say: Callable[[str], None] = lambda words: None
) -> list[Observed]:
    """Return the runs of federations of so many clients, 0 for as many as most runs have.

    How many there are is given and not chosen: of the same data, each of fewer clients has more.

    Parameters
    ----------
    say : is told of runs that are left out.

    Raises
    ------
    DataError
        If there is none.
    """
    sizes = Counter(run.population for run in runs)
    most = clients or max(sizes, key=lambda size: (sizes[size], size))
    if most not in sizes:
        known = ", ".join(map(str, sorted(sizes)))
        raise DataError(f"no run has {clients} clients; expected one of {known}")
    if others := {size: count for size, count in sorted(sizes.items()) if size != most}:
        told = ", ".join(f"{count} of {size}" for size, count in others.items())
        say(f"Asked about federations of {most} clients. Left out: runs with others ({told}).")
    return [run for run in runs if run.population == most]


def perplexity(loss: float) -> float:
    """Return e to the power of a loss, infinite where that is beyond a float."""
    return exp(loss) if loss <= LARGEST else inf
