"""Seconds of a round of four clients on two workers against two bare PyTorch processes.

    python -m benchmarks.studies.round_speed DATA            DATA: a folder of text
    python -m benchmarks.studies.round_speed DATA --size small --steps 32

The round is a real `flwr run` of Photon on Ray: download, training, upload, mean, step, checkpoint.
The bare processes train the same model, as many steps on as many tokens, two clients' worth each,
one thread each, and send nothing. Documents are joined: the bare loop has no mask either. They run
before and after the federated run, and the first round, in which workers load, is left out. The
result goes to benchmarks/results/round-speed.json.
"""

import argparse
import json
import multiprocessing
import tempfile
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.record import ROOT, write_result
from fedllm_app.deploy.launch import run_flower
from fedllm_app.run.metrics import read_lines

CLIENTS, WORKERS, B, T, V = 4, 2, 16, 128, 4096
TARGET = 0.97
FEDERATION = (
    f"num-supernodes = {WORKERS}\nclient-resources-num-cpus = 1\n"
    f"init-args-num-cpus = {WORKERS}\ninit-args-log-to-driver = false\n"
)


def rounds(folder: Path, data: Path, size: str, steps: int, count: int) -> list[dict[str, Any]]:
    """Play a run, and return the timing of each round but the first."""
    settings = {
        "run.home": str(folder), "run.name": "round-speed", "run.rounds": count,
        "run.checkpoint-every": count, "task.name": "pretraining", "task.max-tokens": T,
        "data.train": str(data), "data.test-split": "validation", "model.source": f"scratch:{size}",
        "model.train": "full", "model.tokenizer": "train", "model.vocabulary": V,
        "partition.name": "iid", "partition.clients": CLIENTS, "round.clients": CLIENTS,
        "round.evaluate-every": 0, "data.eval-examples": 16, "data.documents": "joined",
        "client.optimizer": "adamw", "client.lr": 1e-3,
        "client.clip-norm": 1.0, "client.batch": B, "client.steps": steps,
        "client.schedule": "constant", "client.threads": 1, "strategy.name": "photon",
    }  # fmt: skip
    federation = folder / "federation.toml"
    federation.write_text(FEDERATION)
    words = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    code = run_flower(ROOT, overrides=words, federation=federation)
    if code:
        raise SystemExit(f"the run ended with exit code {code}")
    timing = read_lines(folder / "runs" / "round-speed" / "timing.jsonl")
    return [line for line in timing if line["round"] > 1]


def bare(size: str, steps: int, ready: Barrier, done: Barrier) -> None:
    """Train in this process between two barriers."""
    from benchmarks.rows.row import threads
    from benchmarks.studies.client_speed import Bare, batches_of
    from fedllm_app.client.settings import ClientSettings

    settings = ClientSettings(
        optimizer="adamw", lr=1e-3, clip_norm=1.0, steps=steps, batch=B, schedule="constant",
        warmup_steps=1,
    )  # fmt: skip
    with threads(1):
        loop = Bare(size, batches_of(steps), settings)
        loop.batches = loop.batches[:2]
        loop()
        loop.batches = batches_of(steps)
        ready.wait()
        loop()
        done.wait()


def two_bare(size: str, steps: int) -> float:
    """Return the seconds in which two processes train, from the first start to the last end."""
    spawn = multiprocessing.get_context("spawn")
    ready, done = spawn.Barrier(WORKERS + 1), spawn.Barrier(WORKERS + 1)
    asked = (size, steps * CLIENTS // WORKERS, ready, done)
    processes = [spawn.Process(target=bare, args=asked) for _ in range(WORKERS)]
    for process in processes:
        process.start()
    ready.wait()
    began = perf_counter()
    done.wait()
    took = perf_counter() - began
    for process in processes:
        process.join()
    return took


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--dry", action="store_true", help="write nothing")
    asked = parser.parse_args()
    theirs = [two_bare(asked.size, asked.steps)]
    with tempfile.TemporaryDirectory(prefix="round-speed-") as folder:
        timing = rounds(Path(folder), asked.data, asked.size, asked.steps, asked.rounds)
    theirs.append(two_bare(asked.size, asked.steps))
    own = [line["seconds"] for line in timing]
    row = {
        "what": f"a round of {CLIENTS} clients on {WORKERS} workers, scratch:{asked.size}",
        "ratio": median(theirs) / median(own),
        "target": ["at least", TARGET],
        "seconds": {"ours": own, "bare": theirs},
        "training-s": [line["client-train-s"] / WORKERS for line in timing],
        "parts-s": {p: median(line["parts"][p] for line in timing) for p in timing[0]["parts"]},
    }
    print(json.dumps(row, indent=1))
    if not asked.dry:
        settings = {"batch": B, "tokens": T, "vocabulary": V, "steps": asked.steps}
        write_result("round-speed", settings, [row])


if __name__ == "__main__":
    main()
