"""Instruction tuning: what an assistant says in a conversation, from all that comes before it.

The loss is over the responses, and by `task.loss-on` = "all" over every token; what is measured is
always the responses, since a loss over prompts too falls while the responses learn nothing.
data/chat.py tells which tokens they are, and data/shorten.py what a long conversation loses.

Shapes: B batch, T tokens of the longest row, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fedllm_app.data.conversations import shape_of
from fedllm_app.data.instructions import prepare_instructions
from fedllm_app.tasks.base import IGNORED, Metric, Tally, TaskKind, padded
from fedllm_app.tasks.next_token import NextToken
from fedllm_app.tasks.pretraining import positions_of
from fedllm_app.tasks.sums import OF_TOKENS

if TYPE_CHECKING:
    from torch import Tensor

NAME = "instruction"
RESPONSES, ALL = "responses", "all"


@dataclass(frozen=True)
class Instruction(NextToken):
    """Every token of a response from those before it.

    Attributes
    ----------
    everything : learn all tokens; the responses alone are measured.
    packed : rows come as arrays, with several conversations in each.
    """

    everything: bool = False
    packed: bool = False
    accuracy = "token-accuracy"

    def collate(self, rows: Any) -> "dict[str, Tensor]":
        """Return input_ids, attention_mask or position_ids, labels (B, T), int64, unshifted.

        `measured`, of the same shape, is there where other tokens are trained than are measured.

        Parameters
        ----------
        rows : prepared rows; packed, columns as arrays: input_ids (B, T), starts (S, 2) and
            responses (2 R, 2), a row and an offset each, a begin and an end by turns.
        """
        import torch

        if self.packed:
            ids, starts = torch.from_numpy(rows["input_ids"].astype(np.int64)), rows["starts"]
            where = torch.from_numpy(positions_of(tuple(ids.shape), starts))
            pairs = np.asarray(rows["responses"]).reshape(-1, 2, 2)
            spans = [(int(p[0, 0]), int(p[0, 1]), int(p[1, 1])) for p in pairs]
            batch = {"input_ids": ids} | ({"position_ids": where} if starts[:, 1].any() else {})
            readable = where > 0  # the first token of a conversation is predicted from nothing
        else:
            batch = padded(rows, self.pad_id)
            ids, readable = batch["input_ids"], batch["attention_mask"] > 0
            spans = [
                (i, begin, end)
                for i, row in enumerate(rows)
                for begin, end in zip(row["responses"][::2], row["responses"][1::2], strict=True)
            ]
        answers = torch.full_like(ids, IGNORED)
        for row, begin, end in spans:
            answers[row, begin:end] = ids[row, begin:end]
        answers = answers.masked_fill(~readable, IGNORED)
        if not self.everything:
            return {**batch, "labels": answers}
        real = readable if not self.packed else readable & ~self._padding(ids, rows["starts"])
        return {**batch, "labels": ids.masked_fill(~real, IGNORED), "measured": answers}

    def tally(self, logits: "Tensor", batch: "Mapping[str, Tensor]") -> Tally:
        """Return loss_sum, correct, units; a unit is a token of a response."""
        return super().tally(logits, {**batch, "labels": batch.get("measured", batch["labels"])})

    def _padding(self, ids: "Tensor", starts: np.ndarray) -> "Tensor":
        """Return where a packed row is padding: its last part, if that is pads alone."""
        import torch

        last = np.zeros(len(ids), np.int64)
        np.maximum.at(last, starts[:, 0], starts[:, 1])
        tail = torch.arange(ids.shape[1]) >= torch.from_numpy(last)[:, None]
        pads = (ids == self.pad_id) | ~tail
        return tail & pads.all(1, keepdim=True)


def _fitted(kind: TaskKind, settings: Any) -> TaskKind:
    """Return a kind of instructions as namespace `task` asks for it."""
    packed, everything = bool(settings.packing), settings.loss_on == ALL
    return replace(
        kind,
        columns=("input_ids", "responses", *(("starts",) if packed else ())),
        prepare=partial(prepare_instructions, packing=packed),
        make=lambda pad_id, image: Instruction(pad_id, everything, packed),
        packed=packed,
    )


INSTRUCTION = TaskKind(
    name=NAME,
    auto_model="AutoModelForCausalLM",
    columns=("input_ids", "responses"),
    metrics=(
        Metric("loss", falls=True),
        Metric("perplexity", falls=True),
        Metric("token-accuracy"),
    ),
    prepare=prepare_instructions,
    make=lambda pad_id, image: Instruction(pad_id),
    whole_rows=True,
    chat=True,
    domains=True,
    check=shape_of,
    fitted=_fitted,
    sums=OF_TOKENS,
)
