"""What finished runs say to the guide: settings, perplexity as it fell, and what each job cost.

A row is plain JSON, so that results may be read where the runs' folders are not. Its FLOPs and
bytes are sums over the run. Every job is taken to have its equal share of them, which is exact
where all clients train and send alike, and a mean where each trains a part of its own.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fedllm_app.core.errors import DataError
from fedllm_app.core.settings import Scalar
from fedllm_app.run.metrics import iterate_lines, read_lines
from fedllm_app.server.methods import STRATEGIES
from fedllm_app.server.methods.settings import StrategySettings

Row = dict[str, Any]
# What follows from other keys, or makes no other run.
FOLLOWS = (
    "run.rounds", "run.seed", "run.home", "run.name", "run.checkpoint-every",
    "round.evaluate-every", "client.schedule-steps", "client.warmup-steps", "client.threads",
)  # fmt: skip
NEEDED = (
    "run", "settings", "curve", "rounds", "clients", "population", "seed", "flops", "up-bytes",
    "down-bytes", "parameters", "tokens",
)  # fmt: skip


@dataclass(frozen=True)
class Observed:
    """One finished run.

    Attributes
    ----------
    name : of the run.
    settings : what it was asked for, by dotted key.
    curve : held-out loss by round, round 0 left out.
    rounds, clients, population : rounds, clients of a round, clients there are.
    seed : of the run.
    flops, up_bytes, down_bytes : of all jobs together.
    parameters : trainable ones.
    tokens : that were trained on.
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
        return waits and not follows and not self.settings.get("devices.balance")

    @property
    def jobs(self) -> int:
        """How many jobs its FLOPs and bytes are the sum of."""
        return self.rounds * self.clients


def row_of(folder: Path, settings: Mapping[str, Scalar]) -> Row:
    """Return the row of a finished run.

    Parameters
    ----------
    folder : of the run; its config.toml says how many clients there are.
    settings : that tell it from others.
    """
    from fedllm_app.config import RunConfig, read_recipe

    c = RunConfig.parse(read_recipe(folder / "config.toml"))
    records = read_lines(folder / "metrics.jsonl")
    evaluated = {r["round"]: r["evaluation"] for r in records if r.get("evaluation")}
    last = next(r for r in reversed(records) if "up-bytes" in r)
    dense = next(line for line in iterate_lines(folder / "ledger.jsonl") if line.get("dense-bytes"))
    return {
        "run": folder.name, "settings": dict(settings),
        "loss": list(evaluated.values())[-1]["loss"],
        "perplexity": exp(list(evaluated.values())[-1]["loss"]),
        "curve": {str(t): e["loss"] for t, e in evaluated.items() if t},
        "rounds": last["round"], "clients": min(c.round.cohort, c.partition.clients),
        "population": c.partition.clients, "seed": c.run.seed,
        "parameters": round((dense["dense-bytes"] - HEADER) / 4),
        **{key: last.get(key, 0) for key in COSTS},
    }  # fmt: skip


HEADER = 64  # bytes of a dense payload beside its values
COSTS = ("tokens", "flops", "up-bytes", "down-bytes", "simulated-s", "energy-j")


def read_observed(path: Path) -> list[Observed]:
    """Return the federated runs of a results file, or of a folder that holds runs.

    Raises
    ------
    DataError
        If there is none, or a row lacks something.
    """
    rows = list(_of_folder(path)) if path.is_dir() else _of_file(path)
    found = [observed(row, path) for row in rows]
    found = [one for one in found if one.population > 1 and one.flops and one.portable]
    if not found:
        raise DataError(
            f"{path} has no federated run on simulated devices that another fleet could have "
            "played alike; expected a results file with rows, or a folder whose runs had "
            "devices.fleet set, synchronous rounds, and neither tiers nor devices.balance"
        )
    return found


def observed(row: Row, path: Path | str = "") -> Observed:
    """Return the run of a row.

    Raises
    ------
    DataError
        If it lacks something.
    """
    if lacks := [key for key in NEEDED if key not in row]:
        raise DataError(f"{path}: row {row.get('run')!r} lacks {', '.join(lacks)}")
    return Observed(
        row["run"], row["settings"], {int(t): loss for t, loss in row["curve"].items()},
        row["rounds"], row["clients"], row["population"], row["seed"], row["flops"],
        row["up-bytes"], row["down-bytes"], row["parameters"], row["tokens"],
    )  # fmt: skip


def _of_file(path: Path) -> list[Row]:
    try:
        rows = json.loads(path.read_text("utf-8"))["rows"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read ({error!r}); expected JSON with a list `rows`"
        ) from None
    return list(rows)


def _of_folder(path: Path) -> Iterator[Row]:
    """Yield the rows of the finished runs in a folder; settings: all that are no defaults."""
    from fedllm_app.config import RunConfig, read_recipe

    default = RunConfig().flat()
    for folder in sorted((path / "runs" if (path / "runs").exists() else path).iterdir()):
        files = [folder / name for name in ("config.toml", "metrics.jsonl", "devices.jsonl")]
        if all(file.exists() for file in files):
            recipe = read_recipe(folder / "config.toml")
            yield row_of(folder, {k: v for k, v in recipe.items() if default.get(k) != v})


@dataclass(frozen=True)
class Setting:
    """What was played with some seeds.

    Attributes
    ----------
    knobs : values of the keys that vary in the study.
    runs : one for each seed.
    """

    knobs: Mapping[str, Scalar]
    runs: Sequence[Observed]

    @property
    def curve(self) -> dict[int, float]:
        """The mean loss over seeds, by round."""
        shared = set.intersection(*(set(run.curve) for run in self.runs))
        return {t: fmean(run.curve[t] for run in self.runs) for t in sorted(shared)}

    @property
    def loss(self) -> float:
        """The mean loss at the end."""
        return list(self.curve.values())[-1]

    @property
    def words(self) -> str:
        """The knobs as KEY=VALUE."""
        return " ".join(f"{key}={value}" for key, value in self.knobs.items())


def grouped(runs: Iterable[Observed]) -> list[Setting]:
    """Return the settings that were played, their seeds together."""
    from fedllm_app.config import RunConfig

    every, default = list(runs), RunConfig().flat()
    keys = list(dict.fromkeys(k for run in every for k in run.settings if k not in FOLLOWS))
    full = [{k: run.settings.get(k, default[k]) for k in keys} for run in every]
    vary = [k for k in keys if len({values[k] for values in full}) > 1]
    found: dict[tuple[Scalar, ...], list[Observed]] = {}
    for run, values in zip(every, full, strict=True):
        found.setdefault(tuple(values[k] for k in vary), []).append(run)
    return [Setting(dict(zip(vary, values, strict=True)), own) for values, own in found.items()]


def spread(settings: Iterable[Setting]) -> float | None:
    """Return the standard deviation of a run's loss over seeds, None where no setting has two.

    That of the loss is about the relative one of perplexity. Settings count alike.
    """
    every = [[list(run.curve.values())[-1] for run in s.runs] for s in settings]
    found = [stdev(losses) for losses in every if len(losses) > 1]
    return sqrt(fmean(x * x for x in found)) if found else None
