"""What it costs, and what it gives, that attention stays inside a document of a packed row.

    python -m benchmarks.studies.boundaries DATA

DATA is a folder with one folder for each source, each with train.parquet and validation.parquet
(columns text and source). Two models from scratch take their steps in turns, from the same values
and on the same rows: one with `data.documents = "apart"`, one with "joined". Both are measured on
the same held-out tokens, those with a token of their own document before them in the row, each with
the attention that it was trained with. Seconds are those of the process, on one thread.
"""

import math
import sys
import time
from copy import deepcopy
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import torch

from benchmarks.record import write_result
from fedllm_app.config import RunConfig
from fedllm_app.core.seeds import generator
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.tasks.base import IGNORED
from fedllm_app.tasks.pretraining import Pretraining

SETTINGS: dict[str, Any] = {
    "task.name": "pretraining", "data.test-split": "validation", "data.user-column": "source",
    "model.source": "scratch:tiny", "model.tokenizer": "train", "model.vocabulary": 4096,
    "model.train": "full", "strategy.name": "fedavg", "client.steps": 1, "client.threads": 1,
}  # fmt: skip
BATCH_TOKENS, LR, WARM_UP, HELD_OUT = 4096, 2e-3, 20, 131_072
ARMS = ("apart", "joined")


def batch_of(task: Pretraining, columns: dict[str, np.ndarray], arm: str) -> dict[str, Any]:
    """Return a batch as one of the two has it; of rows as one document no start is known."""
    if arm == "joined":
        columns = columns | {"starts": columns["starts"][:0]}
    return task.collate(columns)


def study(parts: Parts, steps: int) -> dict[str, Any]:
    """Train both for some steps and return what was measured."""
    T, task, train = parts.config.task.max_tokens, Pretraining(0), parts.data.train
    batch = BATCH_TOKENS // T
    first = parts.model.backbone
    models = {"apart": first, "joined": deepcopy(first)}
    optimizers = {a: torch.optim.AdamW(m.parameters(), lr=LR) for a, m in models.items()}
    order = generator(0, "boundaries").permutation(len(train))[: steps * batch]
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for step in range(steps):
        columns = train.arrays(order[step * batch : (step + 1) * batch])
        for arm in ARMS if step % 2 else ARMS[::-1]:
            began = time.process_time()
            for group in optimizers[arm].param_groups:
                group["lr"] = LR * min(1.0, (step + 1) / WARM_UP)
            found = batch_of(task, columns, arm)
            loss = task.loss(logits(models[arm], found), found)
            optimizers[arm].zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(models[arm].parameters(), 1.0)
            optimizers[arm].step()
            seconds[arm].append(time.process_time() - began)
    evaluation = parts.data.evaluation
    held = np.sort(generator(0, "held out").permutation(len(evaluation))[: HELD_OUT // T])
    row: dict[str, Any] = {
        "tokens-of-a-row": T, "steps": steps, "tokens": steps * batch * T,
        "rows-with-a-boundary-inside": inside(train, order),
    }  # fmt: skip
    for arm in ARMS:
        loss, count = measured(models[arm], task, evaluation, held, batch, arm)
        row[f"{arm}-s-a-step"] = round(float(np.median(seconds[arm])), 4)
        row[f"{arm}-perplexity"] = round(math.exp(loss), 3)
        row["held-out-tokens"] = count
    row["seconds-apart-to-joined"] = round(row["apart-s-a-step"] / row["joined-s-a-step"], 3)
    return row


def logits(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Return the logits of a batch."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    found: torch.Tensor = model(**inputs).logits
    return found


def inside(train: Any, order: np.ndarray) -> float:
    """Return the share of rows in which a document begins after the first token."""
    starts = train.arrays(order)["starts"]
    rows = np.unique(starts[starts[:, 1] > 0, 0])
    return round(len(rows) / len(order), 3)


def measured(
    model: Any, task: Pretraining, rows: Any, held: np.ndarray, batch: int, arm: str
) -> tuple[float, int]:
    """Return the mean loss over the tokens that both predict, and their number."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(held), batch):
            columns = rows.arrays(held[start : start + batch])
            labels = batch_of(task, columns, "apart")["labels"]
            found = batch_of(task, columns, arm) | {"labels": labels}
            units = int((labels[:, 1:] != IGNORED).sum())
            total += float(task.loss(logits(model, found), found)) * units
            count += units
    return total / count, count


def main(data: str, asked: list[str]) -> None:
    """Run the study for each T:STEPS that is asked for, and write what came."""
    torch.set_num_threads(1)
    rows = []
    for pair in asked or ["256:150", "1024:150"]:
        T, steps = map(int, pair.split(":"))
        home = Path(gettempdir()) / "fedllm-boundaries"
        keys = SETTINGS | {"run.home": str(home), "data.train": data, "task.max-tokens": T}
        parts = Parts(RunConfig.parse(keys).resolved(), Place(home))
        rows.append(study(parts, steps))
        print(rows[-1], flush=True)
        write_result("boundaries", SETTINGS | {"batch-tokens": BATCH_TOKENS, "lr": LR}, rows)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
