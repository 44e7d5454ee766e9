"""Predicted bytes beside those of finished runs' ledgers: what `fedllm plan` says, held to account.

    python benchmarks/prediction.py RUN [RUN ...] --home HOME

RUN is the folder of a finished run, whose data and model are where its config.toml says; HOME
keeps the caches. Nothing is trained, and the folders are only read. The result goes to
benchmarks/results/prediction.json.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from record import write_result

from fedllm_app.config import RunConfig, read_recipe
from fedllm_app.parts import Parts, Place
from fedllm_app.study.costs import measured
from fedllm_app.study.predict import Predictor

WAYS = ("up", "down", "base")


def row(folder: Path, predictor: Predictor, flat: dict[str, Any]) -> dict[str, Any]:
    """Return both sums of each way, and the round in which they differ most."""
    paid = measured(folder)
    told = predictor.costs(RunConfig.parse(flat | {"run.rounds": paid.rounds}))
    record: dict[str, Any] = {"run": folder.name, "rounds": paid.rounds}
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


def main() -> None:
    """Predict every run and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--home", required=True, type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    made: dict[str, Predictor] = {}
    for folder in options.runs:
        flat = read_recipe(folder / "config.toml") | {"run.home": str(options.home.resolve())}
        config = RunConfig.parse(flat)
        c, lora = config, config.lora.model_copy(update={"rank": 1})
        shared = repr((c.run.seed, c.data, c.task, c.partition, c.model, lora))
        if shared not in made:
            made[shared] = Predictor.of(Parts(config, Place.of(config)), None)
        rows.append(row(folder, made[shared], flat))
        write_result("prediction", {}, rows)


if __name__ == "__main__":
    main()
