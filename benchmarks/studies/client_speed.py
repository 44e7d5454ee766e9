"""Tokens a second of one client's training from scratch against a bare PyTorch loop.

    python -m benchmarks.studies.client_speed              tiny and small, float32 and bfloat16
    python -m benchmarks.studies.client_speed --sizes tiny --steps 4 --repeats 3 --dry

Both train the same model on the same batches in one process, in turns: AdamW, decay without norms,
a clipped gradient, warm-up. The bare loop is what a person writes first, with torch's own parts.
The result goes to benchmarks/results/client-speed.json; --dry only prints it.

Shapes: B rows of T tokens, V vocabulary.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from benchmarks.record import write_result
from benchmarks.rows.row import alternately, ratio_of, threads
from fedllm_app.client.kept import Kept
from fedllm_app.client.settings import ClientSettings
from fedllm_app.client.train import Device, train
from fedllm_app.core.job import Job
from fedllm_app.core.plan import ClientPlan
from fedllm_app.core.seeds import seed_torch
from fedllm_app.models.adapter import wrap
from fedllm_app.models.attention import attend_in_float32
from fedllm_app.models.scratch import SHAPES, scratch_config
from fedllm_app.models.settings import LoraSettings, ModelSettings
from fedllm_app.models.trainable import TrainableModel
from fedllm_app.tasks.next_token import NextToken
from fedllm_app.wire.codec import WireSettings

V, B, T = 4096, 16, 128
TARGET = 0.97


def fresh(size: str) -> LlamaForCausalLM:
    """Return the model of a size, the same values each time."""
    with torch.random.fork_rng(devices=[]):
        seed_torch("client speed", size)
        return LlamaForCausalLM(scratch_config(SHAPES[size], V, T, {})).train()


def batches_of(steps: int) -> list[dict[str, Tensor]]:
    """Return batches of random tokens; what they say costs nothing."""
    rng = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, V, (B, T), generator=rng) for _ in range(steps)]
    return [
        {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids} for ids in rows
    ]


class Bare:
    """A loop without this project."""

    def __init__(
        self, size: str, batches: list[dict[str, Tensor]], settings: ClientSettings
    ) -> None:
        self.model, self.batches, self.settings = fresh(size), batches, settings
        self.start = [p.detach().clone() for p in self.model.parameters()]
        self.loss = 0.0

    def __call__(self) -> None:
        """Train from the same values over all batches."""
        s, model = self.settings, self.model
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), self.start, strict=True):
                parameter.copy_(value)
        wide = [p for p in model.parameters() if p.ndim > 1]
        thin = [p for p in model.parameters() if p.ndim < 2]
        groups: list[dict[str, Any]] = [
            {"params": wide, "weight_decay": s.weight_decay},
            {"params": thin, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=s.lr, betas=(s.beta1, s.beta2), eps=s.eps)
        total = 0.0
        for step, batch in enumerate(self.batches):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bool(s.autocast)):
                logits = model(
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
                    use_cache=False,
                ).logits  # fmt: skip
                loss = nn.functional.cross_entropy(
                    logits[:, :-1].float().flatten(0, 1), batch["labels"][:, 1:].flatten()
                )
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), s.clip_norm)
            for group in optimizer.param_groups:
                group["lr"] = s.lr * min(1.0, (step + 1) / s.warmup_steps)
            optimizer.step()
            total += loss.item()
        self.loss = total / len(self.batches)


class Ours:
    """One client's `train`, as a job runs it."""

    def __init__(
        self, size: str, batches: list[dict[str, Tensor]], settings: ClientSettings, kept: Path
    ) -> None:
        task = NextToken()
        backbone = fresh(size)
        backbone.config.use_cache = False
        if settings.autocast:
            attend_in_float32(backbone)
        model = wrap(backbone, ModelSettings(train="full"), LoraSettings(), 0)
        assert isinstance(model, TrainableModel)
        self.start, self.loss = model.values(), 0.0
        self.device = Device(
            model=model, initial=self.start, settings=settings, wire=WireSettings(), seed=0,
            kept=kept, batches=lambda *_: iter(batches),
            loss=lambda logits, batch: (task.loss(logits, batch), task.units(batch)),
        )  # fmt: skip

    def __call__(self) -> None:
        """Train from the same values over all batches."""
        self.device.model.load(self.start)
        metrics = train(self.device, Job(1, "a"), ClientPlan(), None, Kept(), {}).metrics
        self.loss = metrics.loss_sum / metrics.units


def measure(size: str, autocast: str, steps: int, repeats: int) -> dict[str, Any]:
    """Return one row: tokens a second of both, and the median ratio of pairs."""
    settings = ClientSettings(
        optimizer="adamw", lr=1e-3, beta1=0.9, beta2=0.95, weight_decay=0.1, decay_all=False,
        clip_norm=1.0, steps=steps, batch=B, schedule="constant", warmup_steps=100,
        autocast="bfloat16" if autocast else "",
    )  # fmt: skip
    batches = batches_of(steps)
    with tempfile.TemporaryDirectory() as folder, threads(1):
        ours, bare = Ours(size, batches, settings, Path(folder)), Bare(size, batches, settings)
        own, other = alternately(repeats, ours, bare)
    tokens = steps * B * T
    return {
        "what": f"training of one client, scratch:{size}, {autocast or 'float32'}",
        "parameters": ours.device.model.layout.size,
        "tokens-a-second": tokens / median(own),
        "bare-tokens-a-second": tokens / median(other),
        "ratio": ratio_of(other, own),
        "target": ["at least", TARGET],
        "seconds": {"ours": own, "bare": other},
        "loss": {"ours": ours.loss, "bare": bare.loss},
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["tiny", "small"], choices=list(SHAPES))
    parser.add_argument("--types", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dry", action="store_true", help="write nothing")
    asked = parser.parse_args()
    rows = []
    for size in asked.sizes:
        for kind in asked.types:
            row = measure(size, "" if kind == "float32" else kind, asked.steps, asked.repeats)
            rows.append(row)
            print(
                f"{row['what']}: {row['tokens-a-second']:,.0f} tokens/s, bare "
                f"{row['bare-tokens-a-second']:,.0f}, ratio {row['ratio']:.3f}, loss "
                f"{row['loss']['ours']:.4f} against {row['loss']['bare']:.4f}",
                flush=True,
            )
    if not asked.dry:
        settings = {"batch": B, "tokens": T, "vocabulary": V, "steps": asked.steps, "threads": 1}
        write_result("client-speed", settings, rows)


if __name__ == "__main__":
    main()
