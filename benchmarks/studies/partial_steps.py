"""Time of a local step against the share of the model that is trained, for the three families.

    python -m benchmarks.studies.partial_steps                  writes result and figure
    python -m benchmarks.studies.partial_steps --dry --draws 2 --steps 2

A client's own training on random tokens: forward, backward, SGD. For each share some draws of
`strategy.name = "partial"` take turns with training of everything; seconds are those of the
processor in one thread, which other work on the machine does not count into. FLOPs are counted by
torch on the same steps. A step is never cheaper than its forward pass, which is measured as well.

Shapes: B rows of T tokens, V vocabulary.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median
from time import process_time
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from benchmarks.record import ROOT, kept_rows, write_result
from benchmarks.rows.row import threads
from fedllm_app.client.kept import Kept
from fedllm_app.client.settings import ClientSettings
from fedllm_app.client.train import Device, train
from fedllm_app.core.job import Job
from fedllm_app.core.plan import ClientPlan
from fedllm_app.core.region import size_of
from fedllm_app.core.seeds import seed_torch
from fedllm_app.core.support import Derived, Draw, expand
from fedllm_app.models.adapter import wrap
from fedllm_app.models.scratch import DEVICE_SHAPES, scratch_config
from fedllm_app.models.settings import LoraSettings, ModelSettings
from fedllm_app.tasks.next_token import NextToken
from fedllm_app.wire.codec import WireSettings

V, B, T = 4096, 16, 32
SHARES = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
FAMILIES = ("lstm-small", "transformer-small", "conformer-small")
FIGURE = ROOT / "docs" / "figures" / "partial-steps.png"
TASK = NextToken()


def device_of(name: str, folder: Path, steps: int, lora: LoraSettings | None = None) -> Device:
    """Return a device that trains a model of this name on the same batches each time.

    Parameters
    ----------
    lora : adapters that are trained; None trains the model in full.
    """
    with torch.random.fork_rng(devices=[]):
        seed_torch("partial steps", name)
        config = scratch_config(DEVICE_SHAPES[name], V, T, {})
        config.use_cache = False
        backbone = AutoModelForCausalLM.from_config(config)
        rows = [torch.randint(0, V, (B, T)) for _ in range(steps)]
    batches = [{"input_ids": x, "attention_mask": torch.ones_like(x), "labels": x} for x in rows]
    trains = ModelSettings(train="lora" if lora else "full")
    model = wrap(backbone, trains, lora or LoraSettings(), 0)
    return Device(
        model=model, initial=model.values(), settings=ClientSettings(lr=0.01, batch=B),
        wire=WireSettings(), seed=0, kept=folder, batches=lambda *_: iter(batches),
        loss=lambda logits, batch: (TASK.loss(logits, batch), TASK.units(batch)),
    )  # fmt: skip


def seconds_of(device: Device, where: Any, steps: int) -> float:
    """Return the processor's seconds of one step that trains a set."""
    device.model.load(device.initial)
    began = process_time()
    train(device, Job(1, "a"), ClientPlan(), where, Kept(), {})
    return (process_time() - began) / steps


def flops_of(device: Device, where: Any) -> int:
    """Return the floating-point operations of the matrix products of one step."""
    model = device.model
    model.model.train()
    model.freeze_outside(where)
    (batch, *_) = device.batches("a", B, None)  # type: ignore[arg-type]
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(TASK.loss(model.logits(batch), batch))
    model.grad.zero_()
    return int(counter.get_total_flops())


def forward_s(device: Device, batch: dict[str, Tensor]) -> float:
    """Return the processor's seconds of a forward pass and its loss."""
    with torch.no_grad():
        began = process_time()
        TASK.loss(device.model.logits(batch), batch)
        return process_time() - began


def measure(name: str, steps: int, draws: int) -> Iterator[dict[str, Any]]:
    """Yield one row for each share of a model."""
    with tempfile.TemporaryDirectory() as folder, threads(1):
        device = device_of(name, Path(folder), steps)
        P, layout = device.model.layout.size, device.model.layout
        (batch, *_) = device.batches("a", B, None)  # type: ignore[arg-type]
        seconds_of(device, None, steps)  # warm caches
        forward = median(forward_s(device, batch) for _ in range(2 * draws))
        whole_flops = flops_of(device, None)
        for share in SHARES:
            mine = Derived("random-tensors", {"share": share}, ("round", "client"))
            pairs, trained, flops = list[tuple[float, float]](), list[float](), list[float]()
            for number in range(draws):
                where = expand(mine, layout, Draw(0, number + 1, "all", "a"))
                where = None if share == 1 else where
                whole = seconds_of(device, None, steps)
                pairs.append((seconds_of(device, where, steps), whole))
                trained.append(size_of(where, P) / P)
                flops.append(flops_of(device, where) / whole_flops)
            yield {
                "what": name, "parameters": P, "share": share, "draws": draws,
                "trained": mean(trained), "flops": mean(flops),
                "time": mean(own for own, _ in pairs) / mean(whole for _, whole in pairs),
                "seconds": [own for own, _ in pairs], "whole-seconds": [w for _, w in pairs],
                "forward": forward / median(whole for _, whole in pairs),
            }  # fmt: skip


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw time and FLOPs against the share."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8.4, 3.4), sharey=True, layout="constrained")
    for name in FAMILIES:
        own = [row for row in rows if row["what"] == name]
        x = [row["share"] for row in own]
        (line,) = axes[0].plot(x, [row["time"] for row in own], "o-", label=name)
        forward = mean(row["forward"] for row in own)
        axes[0].axhline(forward, ls=":", lw=1, color=line.get_color())
        axes[1].plot(x, [row["flops"] for row in own], "o-", label=name)
    axes[0].set(title="time of a step", ylabel="of training all", ylim=(0, 1.1))
    axes[1].set(title="FLOPs of its matrix products")
    for axis in axes:
        axis.set_xlabel("train-share")
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print, write and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(FAMILIES), choices=list(DEVICE_SHAPES))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--dry", action="store_true", help="write nothing")
    parser.add_argument("--draw", action="store_true", help="draw the figure of the result again")
    asked = parser.parse_args()
    if asked.draw:
        draw(kept_rows("partial-steps"), FIGURE)
        return
    rows = []
    for name in asked.models:
        for row in measure(name, asked.steps, asked.draws):
            rows.append(row)
            print(
                f"{name}, share {row['share']}: {row['trained']:.2f} trained, time "
                f"{row['time']:.2f}, flops {row['flops']:.2f}, forward {row['forward']:.2f}",
                flush=True,
            )
    if not asked.dry:
        settings = {"batch": B, "tokens": T, "vocabulary": V, "steps": asked.steps, "threads": 1}
        write_result("partial-steps", settings, rows)
        draw(rows, FIGURE)


if __name__ == "__main__":
    main()
