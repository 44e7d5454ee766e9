"""What a task makes of examples and of a model's answers: batches, loss, additive counts, metrics.

A tally is a dictionary of sums with their denominators. Tallies of batches, and of clients, add up
key by key, and only the total is turned into metrics: no average of averages.

Shapes: B batch, T tokens of the longest row, C labels, V vocabulary.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedllm_app.core.errors import DataError
from fedllm_app.data.image import ImageSpec, pixels
from fedllm_app.data.settings import TaskSettings

Tally = dict[str, Any]  # int, float, or int64 array: all three add with +
IGNORED = -100  # label of a position that is not predicted, torch's own convention


class Task(Protocol):
    """A task, as client and server see it.

    Attributes
    ----------
    name : as in `task.name`.
    unit : what is counted, "examples" or "tokens".
    headline : the metric shown first.
    """

    name: str
    unit: str
    headline: str

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return one batch of prepared rows, padded to its own longest."""

    def loss(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the mean loss over the units of the batch, float32, with its gradient."""

    def units(self, batch: Mapping[str, Tensor]) -> int:
        """Return how many units the loss of a batch is the mean over."""

    def tally(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tally:
        """Return the sums of one batch; `units` is the denominator of the others."""

    def metrics(self, tally: Tally) -> dict[str, float]:
        """Return the metrics of a total; DataError if it holds no unit."""


def add_tallies(tallies: Iterable[Tally]) -> Tally:
    """Return the sum, key by key; {} of none."""
    total: Tally = {}
    for tally in tallies:
        total = {k: total[k] + v for k, v in tally.items()} if total else dict(tally)
    return total


def macro_f1(tp_C: NDArray[np.int64], fp_C: NDArray[np.int64], fn_C: NDArray[np.int64]) -> float:
    """Return the mean F1 over the labels that occur, or are predicted, at least once.

    Parameters
    ----------
    tp_C, fp_C, fn_C : int64 arrays of shape (C,), true positives, false positives and false
        negatives of each label.
    """
    size_C = 2 * tp_C + fp_C + fn_C
    seen_C = size_C > 0
    return float(np.mean(2 * tp_C[seen_C] / size_C[seen_C])) if seen_C.any() else 0.0


class _Classification:
    """What the two classification tasks share: logits (B, C), labels (B,)."""

    unit = "examples"
    headline = "accuracy"

    def loss(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the mean cross-entropy over the examples."""
        return cross_entropy(logits.float(), batch["labels"])

    def units(self, batch: Mapping[str, Tensor]) -> int:
        """Return the number of examples."""
        return batch["labels"].numel()

    def tally(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tally:
        """Return loss_sum, correct, units, and per label tp, fp, fn (int64, shape (C,))."""
        labels, predicted = batch["labels"], logits.argmax(-1)
        count, hit = logits.shape[-1], predicted == labels
        tp, of_label, as_label = (
            torch.bincount(which, minlength=count).cpu().numpy()
            for which in (labels[hit], labels, predicted)
        )
        return {
            "loss_sum": cross_entropy(logits.float(), labels, reduction="sum").item(),
            "correct": int(hit.sum()),
            "units": self.units(batch),
            "tp": tp,
            "fp": as_label - tp,
            "fn": of_label - tp,
        }

    def metrics(self, tally: Tally) -> dict[str, float]:
        """Return loss, accuracy, macro-f1."""
        units = _units(tally)
        return {
            "loss": tally["loss_sum"] / units,
            "accuracy": tally["correct"] / units,
            "macro-f1": macro_f1(*(np.asarray(tally[k]) for k in ("tp", "fp", "fn"))),
        }


@dataclass(frozen=True)
class SequenceClassification(_Classification):
    """One label per text."""

    pad_id: int = 0
    name = "sequence-classification"

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return input_ids and attention_mask of shape (B, T), labels of shape (B,), int64."""
        batch = _padded(rows, self.pad_id)
        return {**batch, "labels": torch.tensor([row["label"] for row in rows])}


@dataclass(frozen=True)
class NextToken:
    """Every token of a block from those before it; the first has none and is not predicted."""

    pad_id: int = 0
    name = "next-token"
    unit = "tokens"
    headline = "next-token-accuracy"

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return input_ids, attention_mask, labels of shape (B, T), int64, labels unshifted."""
        batch = _padded(rows, self.pad_id)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
        return {**batch, "labels": labels}

    def loss(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the mean cross-entropy over the predicted tokens, pads ignored."""
        return cross_entropy(logits.float().flatten(0, 1), self._targets(batch).flatten())

    def units(self, batch: Mapping[str, Tensor]) -> int:
        """Return the number of predicted tokens."""
        return int((batch["labels"][:, 1:] != IGNORED).sum())

    def tally(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tally:
        """Return loss_sum, correct, units; a unit is a predicted token."""
        targets = self._targets(batch).flatten()
        flat = logits.float().flatten(0, 1)
        return {
            "loss_sum": cross_entropy(flat, targets, reduction="sum").item(),
            # A pad's target is negative: no prediction equals it.
            "correct": int((flat.argmax(-1) == targets).sum()),
            "units": self.units(batch),
        }

    def metrics(self, tally: Tally) -> dict[str, float]:
        """Return loss, perplexity, next-token-accuracy."""
        units = _units(tally)
        loss = tally["loss_sum"] / units
        return {
            "loss": loss,
            # Beyond 700 a double overflows; a diverged run still has a number to plot.
            "perplexity": math.exp(min(loss, 700.0)),
            "next-token-accuracy": tally["correct"] / units,
        }

    def _targets(self, batch: Mapping[str, Tensor]) -> Tensor:
        # Shifting the labels, not the logits, spares a copy of (B, T, V) floats.
        labels = batch["labels"]
        return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


@dataclass(frozen=True)
class ImageClassification(_Classification):
    """One label per image."""

    image: ImageSpec
    name = "image-classification"

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return pixel_values of shape (B, 3, S, S), float32, and labels of shape (B,), int64."""
        return {
            "pixel_values": pixels([row["image"] for row in rows], self.image),
            "labels": torch.tensor([row["label"] for row in rows]),
        }


TASKS: dict[str, Callable[[int, ImageSpec], Task]] = {
    "sequence-classification": lambda pad_id, image: SequenceClassification(pad_id),
    "next-token": lambda pad_id, image: NextToken(pad_id),
    "image-classification": lambda pad_id, image: ImageClassification(image),
}


def make_task(settings: TaskSettings, pad_id: int = 0, image: ImageSpec | None = None) -> Task:
    """Return the task.

    Parameters
    ----------
    settings : `task.name` chooses.
    pad_id : token that fills rows up; attention does not see it. Text only.
    image : side, mean and standard deviation that the model expects. Images only.
    """
    return TASKS[settings.name](pad_id, image or ImageSpec())


def _padded(rows: Sequence[Mapping[str, Any]], pad_id: int) -> dict[str, Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        count = len(row["input_ids"])
        ids[i, :count] = torch.as_tensor(row["input_ids"], dtype=torch.int64)
        mask[i, :count] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _units(tally: Tally) -> int:
    units = int(tally.get("units", 0))
    if units < 1:
        raise DataError("there is nothing to measure: the tally holds no units")
    return units
