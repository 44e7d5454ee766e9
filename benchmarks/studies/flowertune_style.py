"""Bytes, seconds and memory of a round against FlowerTune's style of the same job.

    python -m benchmarks.studies.flowertune_style DATA MODEL     DATA: parquet; MODEL: a .gguf file

Both play the same clients of the same rows through Flower's simulation: two clients a round on two
workers, the same model, adapters, batch and steps. The peer (peers/flowertune_style) makes base,
adapters and tokenizer anew for each message, sends one Array for each tensor, whole, and means. The
model is saved as bfloat16, as the hub has it, and both compute in float32. Ours is played dense and
with FLoSS. The result goes to benchmarks/results/flowertune-style.json.
"""

import argparse
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import fmean, median
from typing import Any

import psutil

from benchmarks.peers import flower_app
from benchmarks.record import ROOT, write_result
from benchmarks.studies.overhead import FEDERATION, PROCESSES, WORKERS
from benchmarks.watching import started, watching
from fedllm_app.deploy.launch import run_flower
from fedllm_app.run.metrics import read_lines

LOOK_S = 0.25
CLIENTS, ROWS, LETTERS = 2, 40, 160  # of a round; of a client; of a response
T, B, STEPS, RANK = 64, 2, 3, 32
METHODS: dict[str, dict[str, Any]] = {
    "dense": {"strategy.name": "dense"},
    "floss": {
        "strategy.name": "floss", "strategy.down": "change", "strategy.d-down": 1 / 4,
        "strategy.d-up": 1 / 16, "wire.up-values": "q4", "wire.down-values": "int8",
    },
}  # fmt: skip
MEANING = {
    "down-mb, up-mb": "of a round, all its clients together: of ours, payloads with their headers; "
    "of the peer, its arrays as Flower carries them (numpy's format)",
    "first-round-s": "round 1, in which workers import and load",
    "round-s": "median of the rounds after it; of ours without evaluation",
    "workers-pss-mb": f"largest sum over the workers, looked at every {LOOK_S} s: of a page that n "
    "processes share, each has an n-th",
    "server-pss-mb": "the same of the process of the server, which also drives Ray",
    "times": "the peer's figure over ours",
}


def write_inputs(data: Path, model: Path, folder: Path) -> None:
    """Write some short rows of each domain, and the model with its tokenizer."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    owned: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in pq.read_table(data).to_pylist():
        answer = row["response"][:LETTERS].rsplit(" ", 1)[0]
        if len(owned[row["domain"]]) < ROWS and len(row["instruction"]) < LETTERS:
            owned[row["domain"]].append({"instruction": row["instruction"], "response": answer})
    rows = [{"client": client, **row} for client, own in owned.items() for row in own]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    place = {"pretrained_model_name_or_path": model.parent, "gguf_file": model.name}
    whole = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.bfloat16)
    whole.hf_quantizer = None  # else transformers takes it for a quantized model
    whole.config.__dict__.pop("quantization_config", None)
    whole.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(**place).save_pretrained(folder / "model")


@contextmanager
def peaks() -> Iterator[dict[str, float]]:
    """Yield a table that grows to the largest sum of proportional set sizes by kind, in MB."""
    found: dict[str, float] = defaultdict(float)

    def look() -> None:
        now: dict[str, float] = defaultdict(float)
        for kind, process in started(PROCESSES):
            with suppress(psutil.Error, OSError, IndexError):
                text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
                now[kind] += int(text.split("\nPss:")[1].split()[0]) * 1024 / 1e6
        for kind, size in now.items():
            found[kind] = max(found[kind], size)

    with watching(look, LOOK_S):
        yield found


def ours(folder: Path, method: str, rounds: int) -> tuple[dict[str, Any], list[list[str]]]:
    """Play a run, and return its figures and the clients of each round."""
    keys: dict[str, Any] = {
        "run.home": str(folder / "home"), "run.name": method, "run.rounds": rounds,
        "run.checkpoint-every": 1, "task.name": "instruction", "task.max-tokens": T,
        "data.train": str(folder / "rows.parquet"), "data.user-column": "client",
        "data.eval-examples": 4, "partition.name": "natural",
        "model.source": str(folder / "model"), "lora.rank": RANK, "lora.alpha": 2.0 * RANK,
        "lora.dropout": 0.0, "lora.targets": "all-linear", "client.optimizer": "adamw",
        "client.lr": 5e-5, "client.batch": B, "client.steps": STEPS, "client.threads": 1,
        "server.optimizer": "sgd", "server.lr": 1.0, "round.clients": CLIENTS,
        "round.evaluate-every": 0, **METHODS[method],
    }  # fmt: skip
    words = [f"{key}={json.dumps(value)}" for key, value in keys.items()]
    with peaks() as memory:
        code = run_flower(ROOT, overrides=words, federation=FEDERATION)
    if code:
        raise SystemExit(f"our run {method} ended with exit code {code}")
    run = folder / "home" / "runs" / method
    timing = [line for line in read_lines(run / "timing.jsonl") if line["round"] > 0]
    seconds = [line["seconds"] - line["parts"].get("evaluate", 0.0) for line in timing]
    sent = {way: [0] * rounds for way in ("down", "up")}
    cohorts: list[list[str]] = [[] for _ in range(rounds)]
    for line in read_lines(run / "ledger.jsonl"):
        if line["direction"] in sent:
            sent[line["direction"]][line["round"] - 1] += line["bytes"]
        if line["direction"] == "up":
            cohorts[line["round"] - 1].append(line["client"])
    return figures(seconds, sent, memory), cohorts


def theirs(folder: Path, cohorts: list[list[str]]) -> dict[str, Any]:
    """Play the peer with these clients, and return its figures."""
    (folder / "cohorts.json").write_text(json.dumps(cohorts))
    keys = {
        "data": str(folder / "rows.parquet"), "cohorts": str(folder / "cohorts.json"),
        "source": str(folder / "model"), "rank": RANK, "alpha": 2.0 * RANK, "max-tokens": T,
        "batch": B, "steps": STEPS,
    }  # fmt: skip
    with peaks() as memory:
        played = flower_app.play(
            "flowertune_style", keys, nodes=CLIENTS, folder=folder, timeout_s=3600
        )
    sent = {way: [0] * len(cohorts) for way in ("down", "up")}
    messages = [line for line in played.lines if "of-round" in line]
    for line in messages:
        for way in sent:
            sent[way][line["of-round"] - 1] += line[f"{way}-bytes"]
    return {**figures(played.rounds, sent, memory), "arrays": messages[0]["arrays"]}


def figures(
    seconds: list[float], sent: dict[str, list[int]], memory: dict[str, float]
) -> dict[str, Any]:
    """Return the figures of a run; MEANING explains the names."""
    return {
        **{f"{way}-mb": round(fmean(sizes) / 1e6, 3) for way, sizes in sent.items()},
        "first-round-s": round(seconds[0], 1),
        "round-s": round(median(seconds[1:]), 2),
        "workers-pss-mb": round(memory["worker"]),
        "server-pss-mb": round(memory["server"]),
        "by-round": {"seconds": [round(s, 2) for s in seconds], "bytes": sent},
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dry", action="store_true", help="write nothing")
    asked = parser.parse_args()
    if asked.rounds < 2:
        parser.error("--rounds is below 2; round 1 is reported apart")
    # Ray's workers step back behind all other work, and on a busy machine never come forward.
    os.environ.setdefault("RAY_worker_niceness", "0")
    with tempfile.TemporaryDirectory(prefix="flowertune-style-") as name:
        folder = Path(name)
        write_inputs(asked.data.absolute(), asked.model.absolute(), folder)
        found: dict[str, dict[str, Any]] = {}
        cohorts: list[list[str]] = []
        for method in METHODS:
            found[method], cohorts = ours(folder, method, asked.rounds)
            print(method, json.dumps(found[method]), flush=True)
        peer = theirs(folder, cohorts)
        print("peer", json.dumps(peer), flush=True)
    compared = ("down-mb", "up-mb", "first-round-s", "round-s", "workers-pss-mb", "server-pss-mb")
    rows = [{"method": "FlowerTune's style", **peer}]
    for method, own in found.items():
        times = {key: round(peer[key] / own[key], 2) for key in compared}
        rows.append({"method": f"ours, {method}", **own, "times": times})
    about = {
        "model": asked.model.stem, "stored": "bfloat16", "computed": "float32", "rank": RANK,
        "targets": "all-linear", "tokens": T, "batch": B, "steps": STEPS, "clients": CLIENTS,
        "workers": WORKERS, "rounds": asked.rounds, "meaning": MEANING,
    }  # fmt: skip
    if not asked.dry:
        print(write_result("flowertune-style", about, rows))


if __name__ == "__main__":
    main()
