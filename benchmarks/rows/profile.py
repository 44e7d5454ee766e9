"""Where a client's training time goes, and what the ways to shorten it are worth on bench-S."""

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch

from benchmarks.rows.row import Context, Row
from benchmarks.rows.setting import bench_s
from fedllm_app.client.kept import Kept
from fedllm_app.client.train import Device, train
from fedllm_app.core.job import Job
from fedllm_app.core.plan import ClientPlan
from fedllm_app.parts import Parts

# Kind of work -> parts of the names of torch's operators.
KINDS = {
    "matrix products": ("mm", "addmm", "bmm"),
    "attention": ("scaled_dot_product",),
    "dropout before adapters": ("bernoulli", "native_dropout"),
    "gelu": ("gelu",),
    "copies and casts": ("copy_",),
    "sums and products": ("add", "mul", "div"),
    "norms": ("layer_norm",),
}


def measure(context: Context) -> list[Row]:
    """Return the rows of this group."""
    lacking = context.lacks("20newsgroups", "minilm")
    if lacking:
        return [Row(what="profile of a client's training", skipped=lacking)]
    clients = 2 if context.quick else 6
    speeds, rows = {}, []
    with tempfile.TemporaryDirectory() as kept:
        for dtype in ("float32", "bfloat16"):
            setting = bench_s(context, 0)
            parts = replace(setting, keys=setting.keys | {"model.dtype": dtype}).parts
            device = parts.device(Path(kept))
            names = [name for name, count in parts.counts().items() if count > 16][:clients]
            speeds[dtype] = median(speed(device, parts, names) for _ in range(3))
            found = shares(device, names)
            rows.append(
                Row(
                    what=f"profile of a client's training, {dtype} base",
                    measured=speeds[dtype], unit="examples/s", peer=words(found), details=found,
                )
            )  # fmt: skip
        rows.append(padding(device, names))
    return [
        *rows,
        Row(
            what="bfloat16 base in place of float32", measured=speeds["bfloat16"],
            unit="examples/s", peer="float32", theirs=speeds["float32"],
            judged=speeds["bfloat16"] / speeds["float32"], about="x as fast",
            details={"processor has bfloat16": has_bfloat16()},
        ),
    ]  # fmt: skip


def speed(device: Device, parts: Parts, clients: list[str]) -> float:
    """Return the examples a second of training some clients."""
    examples, began = 0, perf_counter()
    for client in clients:
        device.model.load(parts.initial)
        metrics = train(device, Job(1, client), ClientPlan(), None, Kept(), {}).metrics
        examples += metrics.examples
    return examples / (perf_counter() - began)


def shares(device: Device, clients: list[str]) -> dict[str, float]:
    """Return what part of the processor's time each kind of work takes."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        for client in clients[:2]:
            train(device, Job(1, client), ClientPlan(), None, Kept(), {})
    spent: Counter[str] = Counter()
    for event in profiler.key_averages():
        name = event.key.removeprefix("aten::")
        kind = next((k for k, parts in KINDS.items() if any(p in name for p in parts)), "other")
        spent[kind] += event.self_cpu_time_total
    return {kind: spent[kind] / spent.total() for kind in (*KINDS, "other")}


def words(found: dict[str, float]) -> str:
    """Return shares in words, the largest first."""
    ordered = sorted(found.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{kind} {share:.0%}" for kind, share in ordered)


def padding(device: Device, clients: list[str]) -> Row:
    """Return how many tokens of the batches are padding: all that length bucketing could save."""
    real = padded = longest = 0
    for client in clients:
        for batch in device.batches(client, device.settings.batch, np.random.default_rng(0)):
            mask = batch["attention_mask"]
            real, padded = real + int(mask.sum()), padded + mask.numel()
            longest += mask.shape[0] * 64
    return Row(
        what="tokens of a batch, padded to its longest", measured=padded / real, unit="x",
        peer="without padding", theirs=1.0, judged=longest / padded,
        about="x fewer than to 64", details={"clients": len(clients)},
    )  # fmt: skip


def has_bfloat16() -> bool:
    """Say whether the processor names an instruction for bfloat16."""
    info = Path("/proc/cpuinfo")
    return info.exists() and "bf16" in info.read_text()
