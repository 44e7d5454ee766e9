"""Memory of a worker, a bare loop, and of 100 million parameters as bytes: a process for each.

python -m benchmarks.rows.memory CONFIG NUMBER     what a worker holds, step by step
python -m benchmarks.rows.memory wire WORK P       seconds of coding or folding, and MB

Shapes: P trainable parameters.
"""

import atexit
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from benchmarks.record import ROOT
from benchmarks.rows.row import Context, Row, alternately

IMPORTS = {
    "torch": "import torch",
    "torch, transformers, peft": "import torch, transformers, peft",
    "torch, ray, flwr": "import torch, ray, flwr.clientapp, flwr.serverapp",
    "worker": "import ray, client_app, fedllm_app.flower.node",
}
# Work on all P parameters -> the most seconds that it may take on one core, if that is promised.
WORKS: dict[str, float | None] = {
    "encode int8": 3.0,
    "encode q4": 3.0,
    "decode and fold int8": None,
    "decode and fold fp32": None,
    "mean": None,
    "server step with adam": None,
    "write a checkpoint": None,
}
LIMIT_MB = 64.0
_SIZE = "import psutil; print(psutil.Process().memory_info().rss / 1e6)"


def answer_of(*words: str) -> str:
    """Return what a fresh process of one thread prints last."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed: {done.stderr[-2000:]}")
    return done.stdout.splitlines()[-1]


def of_imports() -> dict[str, float]:
    """Return the MB that imports alone take."""
    return {name: round(float(answer_of("-c", f"{x}; {_SIZE}"))) for name, x in IMPORTS.items()}


def of_bare(inputs: Path) -> dict[str, float]:
    """Return the MB of a bare loop over saved inputs: imports alone, and at most."""
    found: dict[str, float] = json.loads(answer_of("-m", "benchmarks.peers.bare", str(inputs)))
    return found


def of_clients(config: Path, number: int) -> dict[str, float]:
    """Return the MB that a worker holds after each step up to `number` clients."""
    words = ("-m", "benchmarks.rows.memory", str(config), str(number))
    found: dict[str, float] = json.loads(answer_of(*words))
    return found


def measure(context: Context) -> list[Row]:
    """Return the rows of work on very many parameters: seconds, and memory beside what is held."""
    P, seconds, memory = 20_000_000 if context.quick else 100_000_000, [], []
    for work, limit in WORKS.items():
        name = f"{work}, {P:,} parameters, dense"
        if not Path("/proc/self/clear_refs").exists():
            memory.append(Row(what=name, skipped="needs Linux, which tells the peak of a process"))
            continue
        found = json.loads(answer_of("-m", "benchmarks.rows.memory", "wire", work, str(P)))
        seconds.append(Row(
            what=name, measured=found["s"], unit="s", peer="copy of the vector",
            theirs=found["copy s"], judged=found["s"], about="s",
            target=None if limit is None else ("at most", limit), details=found,
        ))  # fmt: skip
        memory.append(Row(
            what=f"memory of {name}", measured=found["MB"], unit="MB",
            peer="vector", theirs=4 * P / 1e6, judged=found["MB"], about="MB",
            target=("at most", LIMIT_MB), details=found,
        ))  # fmt: skip
    return seconds + memory


def measure_wire(work: str, P: int) -> dict[str, float]:
    """Return median seconds, and the MB taken at once beside what was held before and is after."""
    values_P, rng = np.empty(P, dtype=np.float32), np.random.default_rng(0)
    for start in range(0, P, 1 << 20):
        part = values_P[start : start + (1 << 20)]
        part[:] = rng.standard_normal(part.size, dtype=np.float32)
    job, copy = job_of(work, values_P), np.zeros(P, dtype=np.float32)
    # What was freed goes back, and the peak is what is held now: all that the work takes is seen.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    kept = job()
    beside = _status("VmHWM") - before - (kept.nbytes / 1e6 if kept is not None else 0.0)
    del kept
    took, copied = alternately(5, job, partial(np.copyto, copy, values_P))
    return {
        "s": median(took),
        "most s": max(took),
        "copy s": median(copied),
        "MB": round(beside, 1),
    }


def job_of(work: str, values_P: np.ndarray) -> Callable[[], np.ndarray | None]:
    """Return what is timed: it returns what it makes, to be held by whoever asked for it."""
    from fedllm_app.server.aggregate import Mean
    from fedllm_app.wire.codec import decode_blocks, encode
    from fedllm_app.wire.slices import Origin

    P, kind = values_P.size, work.split()[-1]
    origin, mean = Origin(P, "0" * 32, "0" * 32), Mean(P, cohort=16)
    mean.fold(None, values_P)  # its memory is there only once it is written to

    def pack() -> np.ndarray:
        rng = np.random.default_rng(1)
        return encode(values_P, None, origin, value_type=kind, block=256, rng=rng)

    if work.startswith("encode"):
        return pack
    if work == "mean":
        return mean.mean
    if work == "server step with adam":
        return stepping(values_P)
    if work == "write a checkpoint":
        return writing(values_P)
    payload = pack()
    return lambda: mean.fold(None, decode_blocks(payload, origin).values)


def stepping(values_P: np.ndarray) -> Callable[[], None]:
    """Return a step of the server, whose state is there already."""
    from fedllm_app.server.optimizer import ServerOptimizer
    from fedllm_app.server.settings import ServerSettings

    optimizer = ServerOptimizer(ServerSettings().resolved(), values_P)
    optimizer.step(values_P)
    return lambda: optimizer.step(values_P)


def writing(values_P: np.ndarray) -> Callable[[], None]:
    """Return the writing of parameters to a temporary folder."""
    import torch

    from fedllm_app.core.state import RunState
    from fedllm_app.run.checkpoint import save_state

    folder = Path(tempfile.mkdtemp(prefix="bench-checkpoint-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tensors = {"params": torch.from_numpy(values_P)}

    def work() -> None:
        save_state(folder, RunState(round=1), tensors)

    return work


def _status(name: str) -> float:
    """Return a size of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024 / 1e6


def main() -> None:
    """Print what one process measures."""
    if sys.argv[1] == "wire":
        print(json.dumps(measure_wire(sys.argv[2], int(sys.argv[3]))))
    else:
        measure_worker()


def measure_worker() -> None:
    """Do what a worker does, without Flower's messages, and print its memory in MB."""
    import ray  # noqa: F401

    import client_app  # noqa: F401  what a worker has loaded, with the next
    import fedllm_app.flower.node  # noqa: F401
    from fedllm_app.config import RunConfig, read_recipe
    from fedllm_app.parts import Parts
    from fedllm_app.place import Place

    sizes: dict[str, Any] = {}

    def note(step: str) -> None:
        sizes[step] = round(psutil.Process().memory_info().rss / 1e6, 1)

    note("imports")
    config = RunConfig.parse(read_recipe(Path(sys.argv[1])))
    parts = Parts(config, Place.of(config))
    counts = parts.counts()
    note("data")
    device = parts.device(Path(config.run.home) / "unused")
    note("model")
    train_clients(device, sorted(counts, key=lambda c: -counts[c])[: int(sys.argv[2])], note)
    print(json.dumps(sizes))


def train_clients(device: Any, clients: list[str], note: Any) -> None:
    """Train one client after the other, those with most examples first."""
    from fedllm_app.client.kept import Kept
    from fedllm_app.client.train import train
    from fedllm_app.core.job import Job
    from fedllm_app.core.plan import ClientPlan

    for done, client in enumerate(clients, 1):
        device.model.load(device.initial)
        train(device, Job(1, client), ClientPlan(), None, Kept(), {})
        if done in (1, 2, len(clients)):
            note(f"{done} client{'s' * (done > 1)}")


if __name__ == "__main__":
    main()
