"""Seconds and memory of one process by number of users of a natural partition.

    python -m benchmarks.studies.users                      100, 10,000 and 100,000 users
    python -m benchmarks.studies.users --users 100 --rounds 3

The rows are the same in number for all, so that only who owns them differs. Every run has a process
of its own, a fork of one that has imported everything. The model is tiny, and each client takes one
step on one row. Seconds are those of the processor, not of the clock on the wall, so that other
work on the machine changes little. The result goes to benchmarks/results/users.json.
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.record import write_result
from benchmarks.studies.overhead import TEXTS, write_users
from fedllm_app.config import RunConfig
from fedllm_app.core.job import Reply
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.play import LocalTransport, build_loop, opened_run

USERS, COHORTS, ROUNDS = (100, 10_000, 100_000), (50, 200), 8
MEANING = {
    "prepare-s": "the first start: reading, tokenizing and dealing out all rows, and start-s.",
    "start-s": "a later start, from the settings to the first round: data, model, digests, loop.",
    "partition-s": "the part of start-s that opens rows and partition.",
    "round-s": "the fastest round beside the devices' work: sampling, plan, encoding, folding, "
    "step, record. Round 1 is left out.",
    "clients-s": "the least of the devices' work in a round.",
    "rss-mb": "largest resident set size of the process of the later start.",
}


def config(folder: Path, cohort: int, rounds: int) -> RunConfig:
    """Return the run-config of one run."""
    return RunConfig.parse(
        {
            "run.name": f"users-{cohort}",
            "run.home": str(folder / "home"),
            "run.rounds": rounds,
            "run.checkpoint-every": rounds,
            "data.train": str(folder / "train.parquet"),
            "data.test": str(folder / "test.jsonl"),
            "partition.name": "natural",
            "model.source": str(folder / "model"),
            "model.init": "random",
            "client.steps": 1,
            "client.batch": 1,
            "client.threads": 1,
            "round.clients": cohort,
            "round.evaluate-every": 0,
        }
    )


class Timed(LocalTransport):
    """Notes the seconds of the devices' work apart."""

    spent_s = 0.0

    def poll(self) -> list[Reply]:
        """Do all requests."""
        began = time.process_time()
        replies = super().poll()
        self.spent_s += time.process_time() - began
        return replies


def one(folder: Path, cohort: int, rounds: int) -> dict[str, float]:
    """Play a run in this process and return what it took."""
    with opened_run(config(folder, cohort, rounds)) as (resolved, run):
        began = time.process_time()
        parts = Parts(resolved, Place.of(resolved))
        parts.counts()
        opened_s = time.process_time() - began
        transport = Timed(parts, run)
        loop = build_loop(parts, run, transport)
        loop.evaluate = None
        started_s = time.process_time() - began
        loop.begin()
        own_s, clients_s = [], []
        for _ in range(rounds):
            transport.spent_s, began = 0.0, time.process_time()
            loop.play_round()
            own_s.append(time.process_time() - began - transport.spent_s)
            clients_s.append(transport.spent_s)
    return {
        "start-s": round(started_s, 3),
        "partition-s": round(opened_s, 3),
        "round-s": round(min(own_s[1:]), 4),
        "clients-s": round(min(clients_s[1:]), 4),
        "rss-mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def measured(users: int, rows: int, cohorts: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Return a row for each cohort, each played by a process of its own."""
    found = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_users(folder, users, rows)
        first = _child(folder, cohorts[0], 2)  # prepares the data
        for cohort in cohorts:
            shutil.rmtree(folder / "home" / "runs")
            row = {"users": users, "cohort": cohort, "rows": rows}
            row |= _child(folder, cohort, rounds) | {"prepare-s": first["start-s"]}
            print(row, flush=True)
            found.append(row)
    return found


def _child(folder: Path, cohort: int, rounds: int) -> dict[str, float]:
    """Return what a run takes in a process that has imported everything and done nothing yet."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(one, (folder, cohort, rounds))


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=USERS)
    parser.add_argument("--cohorts", type=int, nargs="+", default=COHORTS)
    parser.add_argument("--rows", type=int, default=TEXTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    for name in ("datasets", "peft", "transformers.models.bert.modeling_bert"):
        import_module(name)
    rows = [
        row for n in asked.users for row in measured(n, asked.rows, asked.cohorts, asked.rounds)
    ]
    settings = {"rounds": asked.rounds, "meaning": MEANING}
    print(write_result("users", settings, rows))


if __name__ == "__main__":
    main()
