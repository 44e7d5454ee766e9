"""Time and FLOPs of a local step against the share of the attention heads that is trained.

    python -m benchmarks.studies.head_steps             writes the result
    python -m benchmarks.studies.head_steps --dry --draws 1

As benchmarks/studies/partial_steps.py, for `strategy.name = "heads"`: what belongs to no head is
trained by all (`beside: trained`) or by none. Each part takes turns with training of everything:
of the whole model, or of adapters on all linear layers (`train: lora`).
"""

import argparse
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.record import write_result
from benchmarks.rows.row import threads
from benchmarks.studies.partial_steps import B, T, V, device_of, flops_of, forward_s, seconds_of
from fedllm_app.core.region import size_of
from fedllm_app.core.rules import HEAD_SLICES
from fedllm_app.core.support import Derived, Draw, expand
from fedllm_app.models.heads import attention_heads
from fedllm_app.models.settings import LoraSettings
from fedllm_app.models.trainable import TrainableModel

SHARES = (0.25, 0.5, 0.75, 1.0)
MODELS = ("transformer-small", "conformer-small")
TRAINS = {"full": None, "lora": LoraSettings(rank=8, targets="all-linear", dropout=0.0)}


def measure(name: str, trains: str, steps: int, draws: int) -> Iterator[dict[str, Any]]:
    """Yield one row for each share, with and without what belongs to no head."""
    with tempfile.TemporaryDirectory() as folder, threads(1):
        device = device_of(name, Path(folder), steps, TRAINS[trains])
        model = device.model
        assert isinstance(model, TrainableModel)
        units, P = attention_heads(model), model.layout.size
        assert units is not None
        (batch, *_) = device.batches("a", B, None)  # type: ignore[arg-type]
        seconds_of(device, None, steps)  # warm caches
        forward = median(forward_s(device, batch) for _ in range(2 * draws))
        whole_flops = flops_of(device, None)
        for only in (False, True):
            for share in SHARES:
                args = units.args(0, round(share * units.of), only)
                pairs = list[tuple[float, float]]()
                for number in range(draws):
                    draw = Draw(0, number + 1, "all", "a")
                    where = expand(Derived(HEAD_SLICES, args, ("round",)), model.layout, draw)
                    whole = seconds_of(device, None, steps)
                    pairs.append((seconds_of(device, where, steps), whole))
                whole_s = mean(whole for _, whole in pairs)
                yield {
                    "what": name, "train": trains, "parameters": P, "share": share, "draws": draws,
                    "beside": "frozen" if only else "trained", "trained": size_of(where, P) / P,
                    "flops": flops_of(device, where) / whole_flops,
                    "time": mean(own for own, _ in pairs) / whole_s, "forward": forward / whole_s,
                    "seconds": [own for own, _ in pairs], "whole-seconds": [w for _, w in pairs],
                }  # fmt: skip


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--dry", action="store_true", help="write nothing")
    asked = parser.parse_args()
    rows = []
    for trains, name in itertools.product(TRAINS, MODELS):
        for row in measure(name, trains, asked.steps, asked.draws):
            rows.append(row)
            print(
                f"{name}, {trains}, share {row['share']}, rest {row['beside']}: "
                f"{row['trained']:.2f} trained, time {row['time']:.2f}, "
                f"flops {row['flops']:.2f}, forward {row['forward']:.2f}",
                flush=True,
            )
    if not asked.dry:
        settings = {"batch": B, "tokens": T, "vocabulary": V, "steps": asked.steps, "threads": 1}
        write_result("head-steps", settings, rows)


if __name__ == "__main__":
    main()
