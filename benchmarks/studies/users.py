"""Seconds and memory of one process by number of users of a natural partition.

    python -m benchmarks.studies.users                      100, 10,000 and 100,000 users
    python -m benchmarks.studies.users --users 100 --rounds 3

The rows are the same in number for all, so that only who owns them differs. Every run has a process
of its own, the model is tiny, and each client takes one step on two rows. Seconds are those of the
processor, not of the clock on the wall, so that other work on the machine changes little. The
result goes to benchmarks/results/users.json.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT, write_result
from benchmarks.studies.overhead import WORDS, write_inputs
from fedllm_app.config import RunConfig
from fedllm_app.core.job import Reply
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.play import LocalTransport, build_loop, opened_run

USERS, ROWS, COHORTS, ROUNDS = (100, 10_000, 100_000), 200_000, (50, 200), 8
MEANING = {
    "prepare-s": "the first start: reading, tokenizing and dealing out all rows, and start-s.",
    "start-s": "a later start, from the settings to the first round: data, model, digests, loop.",
    "partition-s": "the part of start-s that opens rows and partition.",
    "round-s": "median of a round beside the devices' work: sampling, plan, encoding, folding, "
    "step, record. Round 1 is left out.",
    "clients-s": "median of the devices' work in a round.",
    "rss-mb": "largest resident set size of the process of the later start.",
}


def write_users(folder: Path, users: int, rows: int) -> None:
    """Write the inputs of `overhead` with rows that belong to users in turn."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_inputs(folder, 1)
    columns = {
        "text": [f"the {WORDS[i % 8]} of {WORDS[i % 5]}" for i in range(rows)],
        "label": [i % 2 for i in range(rows)],
        "user": [f"user-{i % users:06d}" for i in range(rows)],
    }
    pq.write_table(pa.table(columns), folder / "train.parquet")


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
            "client.batch": 2,
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
        "round-s": round(statistics.median(own_s[1:]), 4),
        "clients-s": round(statistics.median(clients_s[1:]), 4),
        "rss-mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def measured(users: int, rows: int, cohorts: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Return a row for each cohort, each played twice by a process of its own."""
    found = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_users(folder, users, rows)
        for number, cohort in enumerate(cohorts):
            words = ["--one", str(folder), "--cohorts", str(cohort), "--rounds"]
            # The first process prepares the data; one round more, so that there is a median.
            first = _child([*words, "2"]) if not number else {}
            later = _child([*words, str(rounds)])
            row = {"users": users, "cohort": cohort, "rows": rows} | later
            found.append(row | ({"prepare-s": first["start-s"]} if first else {}))
            print(found[-1], flush=True)
    return found


def _child(words: list[str]) -> dict[str, float]:
    shutil.rmtree(Path(words[1]) / "home" / "runs", ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.studies.users", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=USERS)
    parser.add_argument("--cohorts", type=int, nargs="+", default=COHORTS)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--one", type=Path, help="play one run in this process")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(asked.one, asked.cohorts[0], asked.rounds)))
        return
    rows = [
        row for n in asked.users for row in measured(n, asked.rows, asked.cohorts, asked.rounds)
    ]
    settings = {"rounds": asked.rounds, "meaning": MEANING}
    print(write_result("users", settings, rows))


if __name__ == "__main__":
    main()
