"""Play a peer that is a Flower app, launched exactly as ours is, and read the times it writes.

It has the workers of this project's own federation: two, of one CPU each.
"""

import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT
from fedllm_app.deploy.launch import run_flower

PEERS = ROOT / "benchmarks" / "peers"
FEDERATION = ROOT / "pyproject-federation.toml"


@dataclass(frozen=True)
class Played:
    """What a run of a peer wrote.

    Attributes
    ----------
    rounds : seconds of each round.
    first_train_s : from the launch to the first message that a client was about to train.
    lines : all that it wrote.
    """

    rounds: list[float]
    first_train_s: float
    lines: list[dict[str, Any]]


def federation_of(nodes: int, folder: Path) -> Path:
    """Return this project's federation with another number of nodes; workers stay as they are."""
    lines = FEDERATION.read_text().splitlines()
    kept = [line for line in lines if not line.startswith("num-supernodes")]
    path = folder / f"federation-{nodes}.toml"
    path.write_text("\n".join([f"num-supernodes = {nodes}", *kept]) + "\n")
    return path


def play(
    name: str, keys: Mapping[str, Any], *, nodes: int, folder: Path, timeout_s: float = 600
) -> Played:
    """Run the app of this name and return its times; it is stopped after `timeout_s` seconds.

    Raises
    ------
    RuntimeError
        If the run fails, or a client of it did: rounds without all replies are no measurement.
    """
    times = folder / f"{name}-{time.time_ns()}.jsonl"
    words = [f"{key}={json.dumps(value)}" for key, value in {**keys, "times": str(times)}.items()]
    launched = time.time()
    federation = federation_of(nodes, folder)
    code = run_flower(PEERS / name, overrides=words, federation=federation, timeout_s=timeout_s)
    if code:
        raise RuntimeError(f"the peer {name} failed with exit code {code}")
    lines = [json.loads(line) for line in times.read_text().splitlines()]
    ends = [line["time"] for line in lines if "round" in line]
    trained = [line["trained"] for line in lines if "trained" in line]
    if len(trained) != nodes * (len(ends) - 1):
        raise RuntimeError(f"the peer {name}: {len(trained)} clients trained; see its log")
    rounds = [after - before for before, after in itertools.pairwise(ends)]
    return Played(rounds, min(trained) - launched, lines)
