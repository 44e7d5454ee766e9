"""Memory of a worker and of a bare loop, each in a process of its own.

python -m benchmarks.rows.memory CONFIG NUMBER     what a worker holds, step by step
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from benchmarks.record import ROOT

IMPORTS = {
    "torch": "import torch",
    "torch, transformers, peft": "import torch, transformers, peft",
    "torch, ray, flwr": "import torch, ray, flwr.clientapp, flwr.serverapp",
    "worker": "import ray, client_app, fedllm_app.flower.node",
}
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


def main() -> None:
    """Do what a worker does, without Flower's messages, and print its memory in MB."""
    import ray  # noqa: F401

    import client_app  # noqa: F401  what a worker has loaded, with the next
    import fedllm_app.flower.node  # noqa: F401
    from fedllm_app.config import RunConfig, read_recipe
    from fedllm_app.parts import Parts, Place

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
    from fedllm_app.client.train import train
    from fedllm_app.core.job import Job
    from fedllm_app.core.plan import Work

    for done, client in enumerate(clients, 1):
        device.model.load(device.initial)
        train(device, Job(1, client), Work(), None, {})
        if done in (1, 2, len(clients)):
            note(f"{done} client{'s' * (done > 1)}")


if __name__ == "__main__":
    main()
