"""Pre-training: next-token prediction on packed rows, read as a stream that no token is twice in.

Attention stays inside a document: position ids begin again at 0 with every document, by which
transformers knows where to cut (data/packing.py has the rows). `data.documents` = "joined" lets it
cross, as if a row were one document.

Shapes: B batch, T tokens of a row, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedllm_app.data.packing import prepare_packed
from fedllm_app.tasks.base import IGNORED, Metric, TaskKind
from fedllm_app.tasks.next_token import NAME as NEXT_TOKEN_NAME
from fedllm_app.tasks.next_token import NextToken
from fedllm_app.tasks.sums import OF_TOKENS

if TYPE_CHECKING:
    from torch import Tensor

NAME = "pretraining"


@dataclass(frozen=True)
class Pretraining(NextToken):
    """Every token of a document from those before it; a document's first token is not predicted."""

    def collate(self, rows: Any) -> "dict[str, Tensor]":
        """Return input_ids, position_ids, labels of shape (B, T), int64, labels unshifted.

        Where no document begins in a row there are no position_ids: plain causal attention, which
        every model has, is faster.

        Parameters
        ----------
        rows : columns as arrays: input_ids of shape (B, T); starts, a row and an offset each.
        """
        import torch

        arrays: Mapping[str, np.ndarray] = rows
        ids, starts = torch.from_numpy(arrays["input_ids"].astype(np.int64)), arrays["starts"]
        where = torch.from_numpy(positions_of(ids.shape, starts))
        labels = ids.masked_fill(where == 0, IGNORED)
        cut = {"position_ids": where} if np.any(starts[:, 1:]) else {}
        return {"input_ids": ids, **cut, "labels": labels}


def positions_of(shape: tuple[int, ...], starts: np.ndarray) -> np.ndarray:
    """Return for every token its place in its document, int64 of shape (B, T).

    What a row begins with counts from 0, too: its document's earlier part is in another row.

    Parameters
    ----------
    starts : int64 of shape (S, 2), a row and an offset each.
    """
    at = np.zeros(shape, np.int64)
    at[starts[:, 0], starts[:, 1]] = starts[:, 1]
    found: np.ndarray = np.arange(shape[1]) - np.maximum.accumulate(at, axis=1)
    return found


PRETRAINING = TaskKind(
    name=NAME,
    auto_model="AutoModelForCausalLM",
    columns=("input_ids", "starts"),
    metrics=(
        Metric("perplexity", falls=True),
        Metric("loss", falls=True),
        Metric("next-token-accuracy"),
    ),
    prepare=prepare_packed,
    make=lambda pad_id, image: Pretraining(pad_id),
    reads=("text_column",),
    embedded=NEXT_TOKEN_NAME,
    packed=True,
    sums=OF_TOKENS,
)
