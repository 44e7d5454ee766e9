"""A model of 125M parameters, two rounds through `flwr run` on two cores: memory and seconds.

    python -m benchmarks.studies.at_size TEXT HOME                  diloco and sparse-diloco
    python -m benchmarks.studies.at_size TEXT HOME --method diloco --vocabulary 4096

TEXT is a file or folder as in data.train; HOME keeps the caches. recipes/pretraining/125m.toml
with two clients, two rounds and two steps of two rows. The peak of a process is Linux's own (VmHWM)
with pages that it shares: a worker and the server each count what lies in Ray's object store.
Results go to benchmarks/results/at-size.json and into docs/scaling.md.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.markers import fill, printed
from benchmarks.playing import run_command
from benchmarks.record import ROOT, kept_rows, write_result
from fedllm_app.run.metrics import read_lines

RECIPE = ROOT / "recipes" / "pretraining" / "125m.toml"
NAME = "at-size"
LOOK_S = 0.5
SIZE: dict[str, Any] = {
    "run.rounds": 2, "partition.clients": 2, "round.clients": 2, "client.steps": 2,
    "client.batch": 2, "client.micro-batch": 1, "client.keep-optimizer": False,
    "task.max-tokens": 512, "data.eval-examples": 4, "client.warmup-steps": 2,
    "client.schedule-steps": 4, "model.tokenizer": "train", "round.timeout-s": 3600.0,
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "diloco": {"strategy.name": "diloco"},
    "sparse-diloco": {
        "strategy.name": "sparse-diloco", "strategy.d-up": 0.015625, "strategy.down": "change",
        "wire.up-values": "q2", "wire.down-values": "grid", "wire.grid-bits": 3.0,
    },
}  # fmt: skip
# A process is known by a word of its command line; the first that fits.
ROLES = {
    "Ray worker": "ray::", "raylet": "raylet/raylet", "Ray's directory": "gcs_server",
    "Ray's agents": "ray/_private", "server and simulation": "flwr-simulation",
    "SuperExec": "superexec", "SuperLink": "flower-superlink", "flwr run": "bin/flwr",
    "launcher": "fedllm_app.cli run",
}  # fmt: skip
PARTS = ("plan", "encode", "wait", "fold", "step", "evaluate", "checkpoint")


def role_of(process: psutil.Process) -> str:
    """Return what a process is, "" if it is none of ours."""
    words = f"{process.name()} {' '.join(process.cmdline())}"
    return next((role for role, word in ROLES.items() if word in words), "")


def peak_mb(pid: int) -> float:
    """Return the most MB that a process had resident so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def watched(command: list[str], env: dict[str, str]) -> dict[str, Any]:
    """Run a command; return the peaks of it and of all it starts, by role, and the sum's peak."""
    peaks: dict[int, tuple[str, float]] = {}
    most, began = 0.0, time.monotonic()
    with subprocess.Popen(command, env=env, cwd=ROOT) as run:
        root = psutil.Process(run.pid)
        while run.poll() is None:
            held = 0.0
            for process in _family(root):
                try:
                    pid = process.pid
                    role = role_of(process) or peaks.get(pid, ("", 0.0))[0]
                    peaks[pid] = role, max(peak_mb(pid), peaks.get(pid, ("", 0.0))[1])
                    info = process.memory_info()
                    held += (info.rss - info.shared) / 1e6
                except (psutil.Error, OSError):
                    continue
            most = max(most, held)
            time.sleep(LOOK_S)
    by_role: dict[str, list[float]] = {}
    for role, peak in peaks.values():
        if role:
            by_role.setdefault(role, []).append(round(peak))
    return {
        "exit-code": run.returncode,
        "seconds": round(time.monotonic() - began, 1),
        "peak-mb": {role: sorted(found, reverse=True) for role, found in by_role.items()},
        "own-mb-of-all": round(most),
    }


def _family(root: psutil.Process) -> Iterator[psutil.Process]:
    try:
        yield root
        yield from root.children(recursive=True)
    except psutil.Error:
        return


def beside() -> list[str]:
    """Return what else computes on this machine, by its command's last words."""
    found = []
    processes = [p for p in psutil.process_iter() if p.pid != os.getpid()]
    for process in processes:
        try:
            process.cpu_percent()
        except psutil.Error:
            continue
    time.sleep(2.0)
    for process in processes:
        try:
            if (share := process.cpu_percent()) > 20:
                command = [w for w in process.cmdline() if not w.startswith("/")]
                found.append(f"{share:.0f} % {' '.join(command[:4])}")
        except psutil.Error:
            continue
    return found


def play(method: str, text: Path, home: Path, vocabulary: int) -> dict[str, Any]:
    """Play the run with a method and return its row.

    Raises
    ------
    RuntimeError
        If the run fails.
    """
    name = f"at-size-{method}-{vocabulary}-{time.strftime('%H%M%S')}"
    keys = SIZE | METHODS[method] | {
        "run.home": str(home), "run.name": name, "data.train": str(text),
        "model.vocabulary": vocabulary,
    }  # fmt: skip
    others = beside()
    seen = watched(
        run_command(keys, RECIPE), os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    )
    if seen["exit-code"]:
        raise RuntimeError(f"the run {name} ended with exit code {seen['exit-code']}")
    folder = home / "runs" / name
    timing = [line for line in read_lines(folder / "timing.jsonl") if line["round"]]
    metrics = [line for line in read_lines(folder / "metrics.jsonl") if line["round"]]
    ledger = read_lines(folder / "ledger.jsonl")
    log = read_lines(folder / "metrics.jsonl")
    return {
        "method": method, "vocabulary": vocabulary, "settings": SIZE | METHODS[method],
        "beside": others, **seen,
        "parameters": (ledger[0]["dense-bytes"] - 64) // 4,
        "rounds": [
            {
                "round": line["round"], "seconds": line["seconds"], "parts": line["parts"],
                "client-train-s": line["client-train-s"],
                **{
                    f"{way}-bytes": sum(
                        row["bytes"] for row in ledger
                        if row["round"] == line["round"] and row["direction"] == way
                    )
                    for way in ("down", "up")
                },
            }
            for line in timing
        ],
        "accepted": [line["clients"] for line in metrics],
        "evaluation": log[-1].get("evaluation", {}),
        "checkpoint-mb": max(
            round(f.stat().st_size / 1e6) for f in (folder / "checkpoints").glob("*.safetensors")
        ),
    }  # fmt: skip


def memory(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return the table of peaks, its head first."""
    table = [["process", *(f"{row['method']}, {row['parameters'] / 1e6:.1f}M" for row in rows)]]
    for role in reversed(ROLES):
        found = [row["peak-mb"].get(role, []) for row in rows]
        if any(found):
            table.append([role, *(", ".join(f"{mb:,}" for mb in own[:2]) for own in found)])
    table.append(["all together, without shared pages",
                  *(f"{row['own-mb-of-all']:,}" for row in rows)])  # fmt: skip
    return table


def seconds(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return the table of seconds by part of a round, its head first."""
    table = [["method", "round", "down", "up", "client's steps", "waiting",
              *(part for part in PARTS if part != "wait")]]  # fmt: skip
    for row in rows:
        for played in row["rounds"]:
            parts = played["parts"]
            table.append([
                row["method"], str(played["round"]),
                f"{played['down-bytes'] / 1e6:,.0f} MB", f"{played['up-bytes'] / 1e6:,.0f} MB",
                f"{played['client-train-s'] / 2:.1f}", f"{parts.get('wait', 0):.1f}",
                *(f"{parts.get(part, 0):.1f}" for part in PARTS if part != "wait"),
            ])  # fmt: skip
    return table


def main() -> int:
    """Play the methods and write rows and tables; a row of the same method is replaced."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("home", type=Path)
    parser.add_argument("--method", choices=METHODS, action="append")
    parser.add_argument("--vocabulary", type=int, default=50_368)
    asked = parser.parse_args()
    rows = {row["method"]: row for row in kept_rows(NAME)}
    for method in asked.method or METHODS:
        rows[method] = play(method, asked.text.resolve(), asked.home.resolve(), asked.vocabulary)
        found = [rows[m] for m in METHODS if m in rows]
        settings = {"recipe": "recipes/pretraining/125m.toml", "text": asked.text.stem}
        write_result(NAME, settings, found)
    texts = {"at-size-memory": printed(memory(found)), "at-size-seconds": printed(seconds(found))}
    fill(ROOT / "docs" / "scaling.md", texts)
    print("\n\n".join(texts.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
