"""Sequence classification: one label per text.

Shapes: B batch, T tokens of the longest row, C labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedllm_app.data.text import prepare_text
from fedllm_app.tasks.base import Metric, Rows, Tally, TaskKind, padded, units_of
from fedllm_app.tasks.sums import OF_LABELS

if TYPE_CHECKING:
    from torch import Tensor

NAME = "sequence-classification"
METRICS = (Metric("accuracy"), Metric("macro-f1"), Metric("loss", falls=True))


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


class Classification:
    """What tasks of one label per example share: logits (B, C), labels (B,)."""

    unit = "examples"

    def loss(self, logits: "Tensor", batch: "Mapping[str, Tensor]") -> "Tensor":
        """Return the mean cross-entropy over the examples."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits.float(), batch["labels"])

    def units(self, batch: "Mapping[str, Tensor]") -> int:
        """Return the number of examples."""
        return batch["labels"].numel()

    def tally(self, logits: "Tensor", batch: "Mapping[str, Tensor]") -> Tally:
        """Return loss_sum, correct, units, and per label tp, fp, fn (int64, shape (C,))."""
        import torch
        from torch.nn.functional import cross_entropy

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
        units = units_of(tally)
        return {
            "loss": tally["loss_sum"] / units,
            "accuracy": tally["correct"] / units,
            "macro-f1": macro_f1(*(np.asarray(tally[k]) for k in ("tp", "fp", "fn"))),
        }


@dataclass(frozen=True)
class SequenceClassification(Classification):
    """One label per text."""

    pad_id: int = 0

    def collate(self, rows: Rows) -> "dict[str, Tensor]":
        """Return input_ids and attention_mask of shape (B, T), labels of shape (B,), int64."""
        import torch

        batch = padded(rows, self.pad_id)
        return {**batch, "labels": torch.tensor([row["label"] for row in rows])}


SEQUENCE_CLASSIFICATION = TaskKind(
    name=NAME,
    auto_model="AutoModelForSequenceClassification",
    columns=("input_ids", "label"),
    metrics=METRICS,
    prepare=prepare_text,
    domains=True,
    make=lambda pad_id, image: SequenceClassification(pad_id),
    needs_labels=True,
    has_head=True,
    reads=("text_column", "label_column"),
    embedded=NAME,
    sums=OF_LABELS,
)
