"""bench-S: dense against FLoSS on 20 Newsgroups, accuracy against measured bytes.

    python benchmarks/bench_s.py tune --data DATA --model MODEL    learning rates, on a validation split
    python benchmarks/bench_s.py run  --data DATA --model MODEL    the runs, through `flwr run`
    python benchmarks/bench_s.py table                             results/bench-s.json and the plot

DATA is the folder of 20 Newsgroups parquet files, MODEL that of MiniLM. Every step skips what is
there already, so a run that was cut off goes on.
"""

import argparse
import itertools
import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "bench-s.toml"
RESULTS = ROOT / "benchmarks" / "results"
TRIAL_ROUNDS = 30
CLIENT_LRS = (0.01, 0.1)
SERVER_LRS = (0.003, 0.01, 0.03)
TUNED = {
    "dense": {"strategy.name": "dense"},
    "floss": {"strategy.name": "floss", "strategy.d-down": 1 / 4, "strategy.d-up": 1 / 16},
}
DENSITIES = ((1 / 4, 1 / 4), (1 / 4, 1 / 16), (1 / 4, 1 / 64))


def trials() -> list[tuple[str, dict[str, Any]]]:
    """Return (name, settings) of every trial: the same grid for each method."""
    rows = []
    for method, own in TUNED.items():
        for client_lr, server_lr in itertools.product(CLIENT_LRS, SERVER_LRS):
            name = f"tune-{method}-{client_lr:g}-{server_lr:g}"
            rates = {"client.lr": client_lr, "server.lr": server_lr}
            split = {"data.evaluate-on": "validation", "data.eval-examples": 500}
            length = {"run.rounds": TRIAL_ROUNDS, "round.evaluate-every": 10}
            rows.append((name, own | rates | split | length))
    return rows


def play_trial(job: tuple[str, dict[str, Any]]) -> None:
    """Play one trial in this process, one thread."""
    import torch

    torch.set_num_threads(1)
    from fedllm_app.config import RunConfig, read_recipe
    from fedllm_app.runtime import run_local

    name, settings = job
    config = RunConfig.parse(read_recipe(RECIPE) | settings | {"run.name": name})
    if not (Path(config.run.home) / "runs" / name / "report.html").exists():
        run_local(config)


def tune(common: dict[str, Any]) -> None:
    """Play all trials, two at a time, and write what each reached."""
    jobs = [(name, settings | common) for name, settings in trials()]
    with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=1) as pool:
        for _ in pool.imap_unordered(play_trial, jobs, chunksize=1):
            write_tuning(Path(common["run.home"]))


def write_tuning(home: Path) -> None:
    """Write results/bench-s-tuning.json from the trials that are finished."""
    rows = []
    for name, settings in trials():
        if (home / "runs" / name / "report.html").exists():
            records = read(home / "runs" / name / "metrics.jsonl")
            curve = {r["round"]: r["evaluation"]["accuracy"] for r in records if "evaluation" in r}
            rows.append({"trial": name, "settings": settings, "validation-accuracy": curve})
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bench-s-tuning.json").write_text(json.dumps(rows, indent=1) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """Return the records of a .jsonl file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["tune"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--home", type=Path, default=Path.home() / ".fedllm" / "bench-s")
    arguments = parser.parse_args()
    common = {"run.home": str(arguments.home)}
    if arguments.data and arguments.model:
        common |= {"data.train": str(arguments.data), "model.source": str(arguments.model)}
    {"tune": tune}[arguments.step](common)


if __name__ == "__main__":
    sys.exit(main())
