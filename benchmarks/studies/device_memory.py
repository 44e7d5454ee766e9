"""What a job holds in memory: counted from shapes, and measured in a process of its own.

    python -m benchmarks.studies.device_memory          writes the result
    python -m benchmarks.studies.device_memory --dry --only lora

Every row is a fresh process. It trains a small model of the same kind once, so that what the
program takes for itself (code that is read in, buffers of libraries) is there; `runtime` is how
much that added to the level after all imports. Then it builds the model, and does a job of two
steps from a dense download, as a device does. Measured is the largest resident size (Linux's
VmHWM) above the level before the model. malloc gives everything above 64 kB back at once, as a
large allocation would be; otherwise the same process may hold twice as much.

Shapes: B rows of T tokens, V vocabulary.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT, write_result

NAME = "device-memory"
V = 4096
STEPS = 2  # the optimizer's state is there from the second on
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "0",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Case:
    """One row of the study: a shape of models/scratch.py, and how it is trained."""

    shape: str
    train: str = "full"
    batch: int = 8
    tokens: int = 128
    checkpointing: bool = False
    optimizer: str = "adamw"
    dtype: str = "float32"
    autocast: str = ""
    vocabulary: int = V
    micro: int = 0

    @property
    def small(self) -> "Case":
        """A case of the same kind that takes next to nothing."""
        family = self.shape.rpartition("-")[0]
        return replace(self, shape=f"{family}-tiny" if family else "micro", batch=2, tokens=16)


CASES = [
    *(Case(shape, batch=b) for shape in ("tiny", "small") for b in (1, 8)),
    *(Case(shape, batch=b) for shape in ("lstm-small", "conformer-small") for b in (1, 8)),
    *(Case("125m", "lora", b, checkpointing=c) for b in (1, 8) for c in (False, True)),
    *(Case("small", batch=b, checkpointing=True) for b in (1, 8)),
    Case("small", batch=8, optimizer="sgd"),
    Case("small", batch=8, micro=2),
    Case("125m", "lora", 8, dtype="bfloat16"),
    Case("125m", "lora", 8, autocast="bfloat16"),
    Case("75m", batch=1),
    Case("75m", "lora", 8, vocabulary=32_768),
]


def counted(case: Case) -> dict[str, int]:
    """Return the bytes that a job holds, by part, and their most at once as "total"."""
    from fedllm_app.client.gradient import mean_gradient
    from fedllm_app.client.held import job_memory
    from fedllm_app.core.plan import ClientPlan
    from fedllm_app.models.memory import shaped_model, step_memory

    task, (batch, *_), settings = _task(), _batches(case), _client(case)
    model = shaped_model(_config(case), "next-token", *_model(case), case.autocast)

    def step(shaped: Any, rows: dict[str, Any]) -> None:
        mean_gradient(
            lambda part: (task.loss(shaped.logits(part), part), task.units(part)),
            rows, shaped.grad, settings.micro_batch, settings.autocast,
        )  # fmt: skip

    memory = step_memory(model, batch, step)
    job = job_memory(memory, settings, ClientPlan(), model.layout.size, None, None)
    return job.parts() | {"total": job.total}


def measured(case: Case) -> dict[str, int]:
    """Return the bytes by which this process grew: at most in a job, and for itself before it."""
    import fedllm_app.client.answer
    import fedllm_app.models.backbone
    import fedllm_app.models.scratch
    import fedllm_app.tasks.next_token  # noqa: F401

    _config(case), _batches(case)
    level = _status("VmRSS")
    _job(case.small)
    gc.collect()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    _job(case)
    return {"measured": _status("VmHWM") - before, "runtime": before - level}


def _job(case: Case) -> None:
    """Build the model and do a job with it."""
    from fedllm_app.client.answer import answer
    from fedllm_app.client.train import Device
    from fedllm_app.core.job import Job, Request
    from fedllm_app.core.plan import ClientPlan
    from fedllm_app.models.adapter import wrap
    from fedllm_app.models.attention import attend_in_float32
    from fedllm_app.models.backbone import DTYPES, checkpoint_layers, without_bars
    from fedllm_app.models.dropout import silence_dropout
    from fedllm_app.models.suits import auto_model
    from fedllm_app.wire.codec import WireSettings, encode
    from fedllm_app.wire.slices import origin_of

    task, batches, (settings, lora) = _task(), _batches(case), _model(case)
    with without_bars():
        made = auto_model("next-token").from_config(_config(case), dtype=DTYPES[case.dtype])
    if case.dtype == "bfloat16" or case.autocast:
        attend_in_float32(made)
    if case.checkpointing:
        checkpoint_layers(made)
    silence_dropout(made)
    model = wrap(made, settings, lora, 0)
    with tempfile.TemporaryDirectory() as folder:
        device = Device(
            model=model, initial=model.values(), settings=_client(case), wire=WireSettings(),
            seed=0, kept=Path(folder), batches=lambda *_: iter(batches),
            loss=lambda logits, batch: (task.loss(logits, batch), task.units(batch)),
        )  # fmt: skip
        origin = origin_of(model.layout, model.fingerprint)
        payload = encode(device.initial, None, origin, value_type="fp32", block=256)
        request = Request(
            "all", ClientPlan().to_json(), {"params": payload}, (Job(1, "a"),),
            model.layout.hash, model.fingerprint, round=1,
        )  # fmt: skip
        (reply,) = answer(device, request)
        assert not reply.error, reply.error


def _task() -> Any:
    from fedllm_app.tasks.next_token import NextToken

    return NextToken()


def _config(case: Case) -> Any:
    from fedllm_app.models.scratch import ALL_SHAPES, scratch_config

    config = scratch_config(ALL_SHAPES[case.shape], case.vocabulary, case.tokens, {})
    config.use_cache = False
    return config


def _model(case: Case) -> tuple[Any, Any]:
    from fedllm_app.models.settings import LoraSettings, ModelSettings

    words = {"train": case.train, "dtype": case.dtype, "checkpointing": case.checkpointing}
    return ModelSettings(init="random", **words), LoraSettings(rank=16)


def _client(case: Case) -> Any:
    from fedllm_app.client.settings import ClientSettings

    words = {"optimizer": case.optimizer, "batch": case.batch, "micro_batch": case.micro}
    return ClientSettings(lr=1e-3, steps=STEPS, autocast=case.autocast, **words)


def _batches(case: Case) -> list[dict[str, Any]]:
    import torch

    draw = torch.Generator().manual_seed(0)
    ids = [
        torch.randint(0, case.vocabulary, (case.batch, case.tokens), generator=draw)
        for _ in range(STEPS)
    ]
    return [{"input_ids": x, "attention_mask": torch.ones_like(x), "labels": x} for x in ids]


def _status(name: str) -> int:
    """Return a line of this process's status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def in_a_process(case: Case) -> dict[str, int]:
    """Return what `measured` says in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, "--one", json.dumps(asdict(case))]
    found = subprocess.run(
        command, cwd=ROOT, env=os.environ | MALLOC, capture_output=True, text=True, check=True
    )
    words: dict[str, int] = json.loads(found.stdout.splitlines()[-1])
    return words


def row_of(case: Case) -> dict[str, Any]:
    """Return the row of a case."""
    parts, found = counted(case), in_a_process(case)
    ratio = parts["total"] / found["measured"]
    return asdict(case) | {"counted": parts, **found, "ratio": round(ratio, 3)}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as docs/devices.md has them."""
    lines = [
        "| model, what is trained | batch | weights | gradients, optimizer, copies | activations | "
        "counted | measured | ratio |",
        "|---" * 8 + "|",
    ]
    for row in rows:
        c, how = row["counted"], [row["shape"], row["train"]]
        how += ["checkpointing"] * row["checkpointing"] + ["SGD"] * (row["optimizer"] == "sgd")
        how += [f"base in {row['dtype']}"] * (row["dtype"] != "float32")
        how += [f"autocast {row['autocast']}"] * bool(row["autocast"])
        how += [f"{row['micro']} rows at once"] * bool(row["micro"])
        how += [f"{row['vocabulary']:,} tokens known"] * (row["vocabulary"] != V)
        beside = c["gradients"] + c["optimizer"] + c["copies"]
        sizes = (c["weights"], beside, c["activations"], c["total"], row["measured"])
        cells = [", ".join(how), str(row["batch"]), *(f"{size / 1e6:.0f}" for size in sizes)]
        lines.append(f"| {' | '.join(cells)} | {row['ratio']:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="rows whose words hold this")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measured(Case(**json.loads(asked.one)))))
        return
    rows = []
    for case in CASES:
        if asked.only not in json.dumps(asdict(case)):
            continue
        row = row_of(case)
        rows.append(row)
        if not asked.dry:
            write_result(NAME, {"steps": STEPS, "malloc": MALLOC}, rows)
        MB = {name: round(value / 1e6) for name, value in row["counted"].items()}
        print(
            f"{case.shape} {case.train} B={case.batch} T={case.tokens} ck={case.checkpointing} "
            f"{case.optimizer} {case.dtype} {case.autocast} micro={case.micro}: counted {MB}, "
            f"measured {row['measured'] / 1e6:.0f} MB beside {row['runtime'] / 1e6:.0f} of the "
            f"program, ratio {row['ratio']:.3f}",
            flush=True,
        )
    print(table(rows))


if __name__ == "__main__":
    main()
