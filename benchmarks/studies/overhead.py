"""Seconds of overhead per round and memory of the server, by number of clients.

    python -m benchmarks.studies.overhead                  350, 4,000 and 40,000 clients, 20 rounds
    python -m benchmarks.studies.overhead --clients 350 --rounds 5
    python -m benchmarks.studies.overhead --by-user --clients 100 10000 100000 --cohort 50

Each run is a real `flwr run` with the repository's federation of two workers. Every client owns one
short text and the model is tiny, so that nearly all of a round is what this project and Flower add.
The result goes to benchmarks/results/overhead.json. With --by-user the clients are the users of a
natural partition of the same 100,000 texts, and it goes to overhead-by-user.json.
"""

import argparse
import json
import statistics
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.record import ROOT, write_result
from benchmarks.watching import started, watching
from fedllm_app.deploy.launch import run_flower
from fedllm_app.run.metrics import read_lines

FEDERATION = ROOT / "pyproject-federation.toml"
WORKERS = int(tomllib.loads(FEDERATION.read_text())["num-supernodes"])
COHORT, TEXTS = 10, 100_000
LOOK_S = 0.2
WORDS = ["the", "of", "sun", "moon", "sea", "sand", "rock", "ice"]
# Part of a command line -> whose memory it is. A Ray worker names itself in place of its command.
PROCESSES = {"flwr-simulation": "server", "flower-superlink": "superlink", "ray::": "worker"}
MEANING = {
    "overhead-s": "seconds of a round, minus its evaluation, minus (seconds of client training, "
    "summed) / workers; rounds 2 to the last. The busiest worker trained at least that long, so "
    "this is at most what is left beside the busiest worker's training.",
    "first-round-s": "round 1, in which the workers load model and data.",
    "outside-rounds-s": "the launch from start to end without its rounds: SuperLink, Ray, imports, "
    "preparing the data, first evaluation, report.",
    "parts-s": "median seconds of each part of rounds 2 to the last; `wait` holds Flower and the "
    "clients' work.",
    "peak-rss-mb": "largest resident set size seen in one process of a kind, looked at from "
    "outside every 0.2 s. The server's process also holds the driver of Ray's engine.",
}


def write_inputs(folder: Path, clients: int) -> None:
    """Write a tokenizer and the shape of a tiny BERT, and one short text per client."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]"
    )
    tokenizer.save_pretrained(folder / "model")
    BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
    ).save_pretrained(folder / "model")
    for name, count in (("train", clients), ("test", 20)):
        rows = (
            {"text": f"the {WORDS[i % 8]} of {WORDS[i % 5]}", "label": i % 2} for i in range(count)
        )
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_users(folder: Path, users: int, rows: int = TEXTS) -> None:
    """Write the same inputs, with train.parquet, whose rows belong to users in turn."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_inputs(folder, 1)
    columns = {
        "text": [f"the {WORDS[i % 8]} of {WORDS[i % 5]}" for i in range(rows)],
        "label": [i % 2 for i in range(rows)],
        "user": [f"user-{i % users:06d}" for i in range(rows)],
    }
    pq.write_table(pa.table(columns), folder / "train.parquet")


def settings(folder: Path, clients: int, rounds: int, cohort: int, by_user: bool) -> dict[str, Any]:
    """Return the run-config of one run."""
    dealt = {"partition.name": "natural"} if by_user else {
        "partition.name": "iid", "partition.clients": clients,
    }  # fmt: skip
    return dealt | {
        "run.name": "overhead",
        "run.home": str(folder / "home"),
        "run.rounds": rounds,
        "run.checkpoint-every": 5,
        "data.train": str(folder / ("train.parquet" if by_user else "train.jsonl")),
        "data.test": str(folder / "test.jsonl"),
        "model.source": str(folder / "model"),
        "model.init": "random",
        "lora.targets": "query,value",
        "strategy.name": "floss",
        "strategy.d-down": 1 / 4,
        "strategy.d-up": 1 / 16,
        "client.steps": 1 if by_user else 0,
        "round.clients": cohort,
        "round.evaluate-every": 0,
    }


@contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """Yield a table that grows to the largest resident set size by kind of process, in MB."""
    peaks: dict[str, float] = {}

    def look() -> None:
        for kind, process in started(PROCESSES):
            with suppress(psutil.Error):
                size = process.memory_info().rss / 1e6
                peaks[kind] = max(peaks.get(kind, 0.0), round(size, 1))

    with watching(look, LOOK_S):
        yield peaks


def measure(
    clients: int, rounds: int, cohort: int = COHORT, by_user: bool = False
) -> dict[str, Any]:
    """Play one run and return its row."""
    with tempfile.TemporaryDirectory(prefix="overhead-") as name:
        folder = Path(name)
        if by_user:
            write_users(folder, clients)
        else:
            write_inputs(folder, clients)
        keys = settings(folder, clients, rounds, cohort, by_user)
        words = [f"{key}={json.dumps(value)}" for key, value in keys.items()]
        began = time.monotonic()
        with peak_memory() as peaks:
            code = run_flower(ROOT, overrides=words, federation=FEDERATION)
        launched_s = time.monotonic() - began
        if code:
            return {"clients": clients, "failed": f"exit code {code}"}
        run = folder / "home" / "runs" / "overhead"
        return {"clients": clients} | summarize(run, launched_s) | {"peak-rss-mb": peaks}


def summarize(run: Path, launched_s: float) -> dict[str, Any]:
    """Return what a run's timing says; MEANING explains the names."""
    from safetensors import safe_open

    timing = [r for r in read_lines(run / "timing.jsonl") if r["round"] > 0]
    first, *rest = timing
    overhead = [r["seconds"] - r["parts"]["evaluate"] - r["client-train-s"] / WORKERS for r in rest]
    with safe_open(max((run / "checkpoints").glob("round-*.safetensors")), "np") as state:
        size = state.get_slice("params").get_shape()[0]
    return {
        "overhead-s": spread(overhead),
        "round-s": spread([r["seconds"] for r in rest]),
        "client-train-s": spread([r["client-train-s"] for r in rest]),
        "parts-s": {
            part: round(statistics.median(r["parts"].get(part, 0.0) for r in rest), 4)
            for part in first["parts"]
        },
        "first-round-s": round(first["seconds"], 2),
        "outside-rounds-s": round(launched_s - sum(r["seconds"] for r in timing), 1),
        "trainable-parameters": size,
    }


def spread(values: list[float]) -> dict[str, float]:
    """Return median, mean and largest."""
    kinds = {"median": statistics.median, "mean": statistics.fmean, "max": max}
    return {name: round(kind(values), 3) for name, kind in kinds.items()}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[350, 4_000, 40_000])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--cohort", type=int, default=COHORT)
    parser.add_argument("--by-user", action="store_true")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("--rounds is below 2; round 1 is reported apart")
    rows = []
    for clients in arguments.clients:
        rows.append(measure(clients, arguments.rounds, arguments.cohort, arguments.by_user))
        print(json.dumps(rows[-1], indent=1))
    about = {
        "rounds": arguments.rounds,
        "clients-per-round": arguments.cohort,
        "workers": WORKERS,
        "examples": TEXTS if arguments.by_user else "one for each client",
        "meaning": MEANING,
    }
    print(write_result("overhead-by-user" if arguments.by_user else "overhead", about, rows))


if __name__ == "__main__":
    main()
