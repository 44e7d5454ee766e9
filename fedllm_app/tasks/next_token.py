"""Next-token prediction: every token of a block from those before it, a document's end included.

Shapes: B batch, T tokens of the longest row, V vocabulary.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedllm_app.data.text import prepare_text
from fedllm_app.tasks.base import IGNORED, Metric, Rows, Tally, TaskKind, padded, units_of
from fedllm_app.tasks.sums import OF_TOKENS

if TYPE_CHECKING:
    from torch import Tensor

NAME = "next-token"


@dataclass(frozen=True)
class NextToken:
    """Every token of a block from those before it; the first has none and is not predicted."""

    pad_id: int = 0
    unit = "tokens"
    accuracy = "next-token-accuracy"  # what the share of correct tokens is called

    def collate(self, rows: Rows) -> "dict[str, Tensor]":
        """Return input_ids, attention_mask, labels of shape (B, T), int64, labels unshifted."""
        batch = padded(rows, self.pad_id)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
        return {**batch, "labels": labels}

    def loss(self, logits: "Tensor", batch: "Mapping[str, Tensor]") -> "Tensor":
        """Return the mean cross-entropy over the predicted tokens, pads ignored."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits.float().flatten(0, 1), self._targets(batch).flatten())

    def units(self, batch: "Mapping[str, Tensor]") -> int:
        """Return the number of predicted tokens."""
        return int((batch["labels"][:, 1:] != IGNORED).sum())

    def tally(self, logits: "Tensor", batch: "Mapping[str, Tensor]") -> Tally:
        """Return loss_sum, correct, units; a unit is a predicted token."""
        from torch.nn.functional import cross_entropy

        targets = self._targets(batch).flatten()
        flat = logits.float().flatten(0, 1)
        return {
            "loss_sum": cross_entropy(flat, targets, reduction="sum").item(),
            # A pad's target is negative: no prediction equals it.
            "correct": int((flat.argmax(-1) == targets).sum()),
            "units": self.units(batch),
        }

    def metrics(self, tally: Tally) -> dict[str, float]:
        """Return loss, perplexity, and the share of correct tokens as `accuracy`."""
        units = units_of(tally)
        loss = tally["loss_sum"] / units
        return {
            "loss": loss,
            # Beyond 700 a double overflows; a diverged run still has a number to plot.
            "perplexity": math.exp(min(loss, 700.0)),
            self.accuracy: tally["correct"] / units,
        }

    def _targets(self, batch: "Mapping[str, Tensor]") -> "Tensor":
        from torch.nn.functional import pad

        # Shifting the labels, not the logits, spares a copy of (B, T, V) floats.
        return pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)


NEXT_TOKEN = TaskKind(
    name=NAME,
    auto_model="AutoModelForCausalLM",
    columns=("input_ids",),
    metrics=(
        Metric("next-token-accuracy"),
        Metric("loss", falls=True),
        Metric("perplexity", falls=True),
    ),
    prepare=prepare_text,
    domains=True,
    make=lambda pad_id, image: NextToken(pad_id),
    reads=("text_column",),
    embedded=NAME,
    sums=OF_TOKENS,
)
