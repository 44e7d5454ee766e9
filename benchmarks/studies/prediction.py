"""Predicted bytes beside those of finished runs' ledgers: what `fedllm plan` says, held to account.

    python -m benchmarks.studies.prediction RUN [RUN ...] --home HOME [--like RUN ...]

RUN is the folder of a finished run, whose data and model are where its config.toml says; HOME
keeps the caches. Nothing is trained, and the folders are only read. Each is predicted with
supports spread evenly, and with what the ledgers of the --like runs tell: those on the same data
and model, itself left out. The result goes to benchmarks/results/prediction.json and, as a table,
to docs/planner.md.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.markers import fill, printed
from benchmarks.record import ROOT, write_result
from fedllm_app.config import RunConfig, read_recipe
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.study.costs import measured
from fedllm_app.study.predict import Predictor
from fedllm_app.study.uneven import Uneven

WAYS = ("up", "down", "base")


def row(folder: Path, predictor: Predictor, flat: dict[str, Any]) -> dict[str, Any]:
    """Return both sums of each way, and the round in which they differ most."""
    paid = measured(folder)
    told = predictor.costs(RunConfig.parse(flat | {"run.rounds": paid.rounds}))
    record: dict[str, Any] = {}
    for way in WAYS:
        ours, theirs = (getattr(costs, f"{way}_bytes") for costs in (told, paid))
        off = np.abs(ours - theirs) / np.maximum(theirs, 1)
        record[way] = {
            "predicted-bytes": int(ours.sum()),
            "measured-bytes": int(theirs.sum()),
            "off-percent": round(100 * (ours.sum() / theirs.sum() - 1), 3),
            "worst-round-off-percent": round(100 * float(off.max()), 3),
        }
    return record


def config_of(folder: Path, home: Path) -> tuple[dict[str, Any], RunConfig]:
    """Return a run's settings with caches in `home`."""
    flat = read_recipe(folder / "config.toml") | {"run.home": str(home.resolve())}
    return flat, RunConfig.parse(flat)


def shared(c: RunConfig) -> str:
    """Return what two runs have to have in common for one predictor."""
    lora = c.lora.model_copy(update={"rank": 1, "alpha": 1.0})
    return repr((c.run.seed, c.data, c.task, c.partition, c.model, lora))


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return what was measured of each run, and by how much the predictions were off."""
    ways = [(way, kind) for way in ("up", "down") for kind in ("even", "like")]
    found = [["run", *(h for w in ("up", "down")
                       for h in (f"{w}, MB measured", "spread evenly", "`--like`"))]]  # fmt: skip
    for row in rows:
        line = [row["run"]]
        for way, kind in ways:
            if kind == "even":
                line.append(f"{row['even'][way]['measured-bytes'] / 1e6:.2f}")
            told = row.get(kind)
            line.append(f"{told[way]['off-percent']:+.1f} %" if told else "")
        found.append(line)
    return found


def main() -> None:
    """Predict every run and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--home", required=True, type=Path)
    parser.add_argument("--like", nargs="+", default=[], type=Path, help="as of `fedllm plan`")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    made: dict[str, Predictor] = {}
    likes = [(like, config_of(like, options.home)[1]) for like in options.like]
    for folder in options.runs:
        flat, config = config_of(folder, options.home)
        kind = shared(config)
        if kind not in made:
            made[kind] = Predictor.of(Parts(config, Place.of(config)), None)
        predictor, record = made[kind], {"run": folder.name}
        predictor.uneven = Uneven()
        record["even"] = row(folder, predictor, flat)
        for like, known in likes:
            if shared(known) == kind and like.name != folder.name:
                predictor.learn(known, like)
        if any(predictor.uneven.runs.values()):
            record["like"] = row(folder, predictor, flat)
        rows.append(record)
        write_result("prediction", {"like": [like.name for like in options.like]}, rows)
    fill(ROOT / "docs" / "planner.md", {"prediction": printed(table(rows))})


if __name__ == "__main__":
    main()
