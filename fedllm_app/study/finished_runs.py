"""Read the guide's rows from a results file, the folder of a sweep, or a folder that holds runs.

What cannot be compared is left out, counted, and named with the reason.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_app.core.errors import DataError, FedllmError, first_line
from fedllm_app.core.settings import Scalar
from fedllm_app.core.units import listed
from fedllm_app.run.metrics import Record, iterate_lines, read_lines
from fedllm_app.study.observed import Observed, Row, observed, perplexity

if TYPE_CHECKING:
    from fedllm_app.config import RunConfig

HEADER = 64  # bytes of a dense payload beside its values
COSTS = ("tokens", "flops", "up-bytes", "down-bytes", "simulated-s", "energy-j")
TABLE = "table.parquet"  # of a sweep
SHOWN = 3  # names of runs that are left out for one reason
UNFINISHED = "not played to the end"
NO_DEVICES = "without simulated devices (devices.fleet)"
Say = Callable[[str], None]


class LeftOutError(DataError):
    """A run that the guide cannot use; the message is the reason alone."""


def row_of(folder: Path, settings: Mapping[str, Scalar]) -> Row:
    """Return the row of a finished run.

    Parameters
    ----------
    folder : of the run.
    settings : that tell it from others.

    Raises
    ------
    LeftOutError
        If it is not finished, or has no evaluation after a round.
    """
    from fedllm_app.config import RunConfig, read_recipe

    c = RunConfig.parse(read_recipe(folder / "config.toml"))
    records = read_lines(folder / "metrics.jsonl")
    evaluations = [(r["round"], r["evaluation"]) for r in records if r.get("evaluation")]
    losses = {t: found["loss"] for t, found in evaluations if t and "loss" in found}
    last = next((r for r in reversed(records) if "up-bytes" in r), None)
    if last is None or not _has_ended(folder, last["round"], c.run.rounds, losses):
        raise LeftOutError(UNFINISHED)
    lines = iterate_lines(folder / "ledger.jsonl")
    dense = next((line["dense-bytes"] for line in lines if line.get("dense-bytes")), None)
    if not losses or dense is None:
        raise LeftOutError("without a loss after a round" if not losses else "that sent nothing")
    loss, population = list(losses.values())[-1], _population(c, records)
    return {
        "run": folder.name, "settings": dict(settings),
        "loss": loss, "perplexity": None if loss is None else perplexity(loss),
        "curve": {str(t): loss for t, loss in losses.items()},
        "rounds": last["round"], "asked": c.run.rounds, "population": population,
        "clients": min(c.round.sized(population).cohort, population), "seed": c.run.seed,
        "parameters": round((dense - HEADER) / 4),
        **{key: last.get(key, 0) for key in COSTS},
    }  # fmt: skip


def _has_ended(folder: Path, round_: int, asked: int, losses: Mapping[int, float | None]) -> bool:
    """Say whether a run is over: all rounds, an end of its own with a result, or no number."""
    from fedllm_app.models.export import has_result

    diverged = bool(losses) and list(losses.values())[-1] is None
    return round_ >= asked or diverged or has_result(folder, round_)


def _population(c: "RunConfig", records: list[Record]) -> int:
    """Return how many clients with examples there are.

    Where the data decide it the settings do not say, and runs of an earlier version do not either.
    """
    from fedllm_app.data.partition import TO_CLIENTS

    if told := records[0].get("population"):
        return int(told)
    if c.partition.name not in TO_CLIENTS:
        raise LeftOutError(f"with partition.name {c.partition.name!r} and clients nobody counted")
    return c.partition.clients


@dataclass
class _Kept:
    """What is used, and the names of what is not, by reason."""

    runs: list[Observed] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def take(self, one: Observed) -> None:
        """Keep a run that another fleet could have played alike."""
        if one.population == 1:
            self.leave(one.name, "with one client")
        elif not one.flops:
            self.leave(one.name, NO_DEVICES)
        elif not one.portable:
            self.leave(
                one.name, "that followed its devices (tiers, devices.balance or available, pacing)"
            )
        else:
            self.runs.append(one)

    def leave(self, name: str, why: str) -> None:
        """Leave a run out."""
        self.left_out.setdefault(why, []).append(name)

    def words(self) -> Iterator[str]:
        """Yield a sentence for each reason."""
        for why, names in self.left_out.items():
            count = f"{len(names)} run{'s' if len(names) > 1 else ''}"
            yield f"Left out: {count} {why} ({listed(names, SHOWN)})."


def read_observed(path: Path, say: Say = lambda words: None) -> list[Observed]:
    """Return the federated runs of a results file, of a sweep's folder, or of one that holds runs.

    Parameters
    ----------
    say : is told of runs that are left out, a sentence for each reason.

    Raises
    ------
    DataError
        If there is none, or a row lacks something.
    """
    kept = _Kept()
    if path.is_dir():
        _of_folder(path, kept)
    else:
        for row in _of_file(path):
            kept.take(observed(row, path))
    if not kept.runs:
        words = [
            f"{path} has no federated run on simulated devices that another fleet could have "
            "played alike; expected a results file with rows, or the folder of a sweep or of runs "
            "that had devices.fleet set, synchronous rounds, and neither tiers nor devices.balance"
        ]
        raise DataError(" ".join([*words, *kept.words()]))
    for words_ in kept.words():
        say(words_)
    return kept.runs


def _of_file(path: Path) -> list[Row]:
    try:
        rows = json.loads(path.read_text("utf-8"))["rows"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read ({error!r}); expected JSON with a list `rows`"
        ) from None
    return list(rows)


def _of_folder(path: Path, kept: _Kept) -> None:
    """Keep the runs of a sweep's folder, or of one that holds runs.

    Settings are all that are no defaults. Of a sweep, what it did not vary follows from what it
    did.
    """
    from fedllm_app.config import RunConfig, read_recipe

    default, varied = RunConfig().flat(), None
    if (path / TABLE).exists():
        names, varied = _of_table(path / TABLE)
        folders = [path.absolute().parents[1] / "runs" / name for name in names]
    else:
        folders = sorted((path / "runs" if (path / "runs").exists() else path).iterdir())
    for folder in folders:
        files = [folder / name for name in ("config.toml", "metrics.jsonl")]
        if not all(file.exists() for file in files):
            if varied is not None:
                kept.leave(folder.name, f"of the sweep that are not in {folder.parent}")
            continue
        try:
            recipe = read_recipe(folder / "config.toml")
            if not (folder / "devices.jsonl").exists():
                raise LeftOutError(NO_DEVICES)
            row = row_of(folder, {k: v for k, v in recipe.items() if default.get(k) != v})
        except LeftOutError as error:
            kept.leave(folder.name, str(error))
        except FedllmError as error:
            kept.leave(folder.name, f"that cannot be read ({first_line(error)})")
        else:
            derived = [] if varied is None else [k for k in default if k not in varied]
            kept.take(observed(row | {"derived": derived}, folder))


def _of_table(file: Path) -> tuple[list[str], set[str]]:
    """Return the names of a sweep's runs that did not fail, and the columns of its table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"{file} cannot be read ({error}); play the sweep again: it writes the table anew and "
            "plays no run twice"
        ) from None
    names = [row["run"] for row in table if not row.get("failed")]
    return names, {name for row in table for name in row}
