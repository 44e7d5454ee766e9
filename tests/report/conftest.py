"""A made-up run's folder, written through the real writers, with curves as real runs have them."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedllm_app.devices.network import Network, NetworkSettings
from fedllm_app.run.ledger import Ledger
from fedllm_app.run.metrics import JsonLines, versions

DENSE_BYTES = 1_320_000
CONFIG = """\
[run]
name = "{name}"
seed = 1

[task]
name = "sequence-classification"
max-tokens = 64

[data]
train = "/data/20newsgroups/train.parquet"
strip = "headers"

[partition]
name = "dirichlet"
clients = 350
alpha = 0.1

[model]
source = "/weights/minilm"

[lora]
rank = 16
targets = "query,value"

[strategy]
name = "{strategy}"
d-down = {d_down}
d-up = {d_up}

[server]
optimizer = "adam"
learning-rate = 0.003

[wire]
up-values = "{values}"
"""


def make_run(
    folder: Path,
    rounds: int = 100,
    strategy: str = "floss",
    d_down: float = 0.25,
    d_up: float = 0.0625,
    values: str = "fp32",
    clients: int = 5,
    every: int = 10,
    evaluate: bool = True,
    drop: bool = True,
    client_prefix: str = "",
    final: float = 0.62,
    up_mbps: float = 0.0,
    dynamics: bool = False,
) -> Path:
    """Write a run's folder and return it; with `up_mbps`, of a run with a simulated clock."""
    rng = np.random.default_rng([int(1e6 * d_up), *values.encode()])
    folder.mkdir(parents=True)
    config = CONFIG.format(
        name=folder.name, strategy=strategy, d_down=d_down, d_up=d_up, values=values
    )
    network = Network(NetworkSettings(down_mbps=200, up_mbps=up_mbps or 20), 0)
    if up_mbps:
        config += f"\n[network]\ndown-mbps = 200.0\nup-mbps = {up_mbps}\n"
    (folder / "config.toml").write_text(config, encoding="utf-8")
    metrics, timing = JsonLines(folder / "metrics.jsonl"), JsonLines(folder / "timing.jsonl")
    ledger = Ledger(folder / "ledger.jsonl", base_client_bytes=91_000_000)

    def scores(round: int) -> dict[str, float]:
        accuracy = 0.05 + (final - 0.05) * (1 - math.exp(-round / 22)) + rng.normal(0, 0.006)
        loss = 3.0 - 1.9 * (1 - math.exp(-round / 25)) + rng.normal(0, 0.02)
        return {"accuracy": accuracy, "loss": loss, "macro-f1": 0.93 * accuracy}

    first: dict[str, object] = {"round": 0, "headline": "accuracy", "up-bytes": 0, "down-bytes": 0}
    metrics.append(first | ({"evaluation": scores(0)} if evaluate else {}))
    timing.append({"round": 0, "seconds": 4.1, "parts": {"evaluate": 4.0}, "versions": versions()})
    width = 1 if values == "int8" else 4
    simulated_s = 0.0
    for round in range(1, rounds + 1):
        dropped: dict[str, int] = {}
        for client in rng.choice(350, clients, replace=False):
            name, bits = f"{client_prefix}{client}", 0.34 if d_up < 1 else 0
            kept = DENSE_BYTES / 4 * d_down
            positions = 0 if d_down == 1 else int(DENSE_BYTES / 4 * 0.11)
            ledger.record(round, name, "all", "down", 96, positions, int(kept * 4), DENSE_BYTES)
            late = drop and rng.random() < 0.02
            positions = int(DENSE_BYTES / 4 * bits * (0.3 + d_up) * 0.5)
            positions += int(rng.integers(0, 200)) if d_up < 1 else 0
            ledger.record(
                round, name, "all", "up", 104, positions, int(DENSE_BYTES / 4 * d_up * width),
                DENSE_BYTES, accepted=not late,
            )  # fmt: skip
            if late:
                dropped["late"] = dropped.get("late", 0) + 1
        simulated_s += network.round_seconds(ledger.traffic())
        ledger.end_round()
        record: dict[str, object] = {
            "round": round,
            "clients": clients - sum(dropped.values()),
            "dropped": dropped,
            "train-loss": 2.4 * math.exp(-round / 40) + 0.5 + rng.normal(0, 0.09),
            "update-norm": 0.3 + rng.random() / 10,
        }
        if dynamics:
            record |= {"params-norm": 40 + round / 9, "momentum-norm": 3.0, "cosine": 0.2 / round}
            record |= {"staleness-mean": 1 + round % 3 / 2, "staleness-most": 3}
            record["tokens"] = 16_384 * round
        if evaluate and (round % every == 0 or round == rounds):
            record["evaluation"] = scores(round)
        record |= {"up-bytes": ledger.totals.up_bytes, "down-bytes": ledger.totals.down_bytes}
        metrics.append(record | ({"simulated-s": simulated_s} if up_mbps else {}))
        parts = {
            "plan": 0.02,
            "encode": 0.03 + 0.005 * rng.random(),
            "wait": 1.7 + 0.5 * rng.random(),
            "fold": 0.04,
            "step": 0.01,
            "evaluate": 4.1 if "evaluation" in record else 0.0,
            "checkpoint": 0.06,
        }
        seconds = sum(parts.values()) + 0.02
        timing.append({"round": round, "seconds": seconds, "parts": parts, "client-train-s": 7.9})
    for file in (metrics, timing, ledger):
        file.close()
    return folder


@pytest.fixture
def run_maker(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a run called by its first argument."""
    return lambda name="bench-s", **how: make_run(tmp_path / "runs" / name, **how)
