"""Where documents begin in packed rows, for models of ours that read along a row.

transformers cuts attention where position ids begin again at 0. What carries a state along the row
has to be cut there, too: a recurrence begins each document anew, and a convolution is given zeros
before it.

Shapes: B rows of T tokens, S documents or parts of one, d width, k kernel.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


def positions_by_mask(attention_mask: Tensor) -> Tensor | None:
    """Return position ids of rows that are padded on the left, None where no row is.

    A pad has position 0, so that the first token of a text is not read together with it.
    """
    if bool(attention_mask[:, 0].all()):
        return None
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def begins(position_ids: Tensor | None, rows: int) -> Tensor | None:
    """Return where documents begin, bool of shape (B, T), None where none begins inside a row."""
    if position_ids is None or position_ids.ndim != 2:
        return None
    starts = (position_ids == 0).expand(rows, -1)
    if not bool(starts[:, 1:].any()):
        return None
    return torch.cat([torch.ones_like(starts[:, :1]), starts[:, 1:]], dim=1)


@dataclass(frozen=True)
class Documents:
    """The documents of packed rows in the order in which a recurrence reads them: all at once.

    Attributes
    ----------
    order : the tokens of all rows, first those that begin a document, then the second ones; the
        longest document first. int64 of shape (B T,).
    sizes : how many documents have a first token, a second one and so on; on the CPU.
    first, last : which document each row begins and ends with, int64 of shape (B,).
    count : S.
    """

    order: Tensor
    sizes: Tensor
    first: Tensor
    last: Tensor
    count: int

    @classmethod
    def of(cls, starts: Tensor) -> "Documents":
        """Return those of rows by where documents begin, bool of shape (B, T)."""
        B, T = starts.shape
        which = starts.flatten().cumsum(0) - 1
        begin = starts.flatten().nonzero()[:, 0]
        S = len(begin)
        lengths = torch.diff(begin, append=begin.new_tensor([B * T]))
        rank = torch.empty_like(begin)
        rank[lengths.argsort(descending=True, stable=True)] = torch.arange(S, device=begin.device)
        place = torch.arange(B * T, device=begin.device) - begin[which]
        rows = rank[which].reshape(B, T)
        order = (place * S + rows.flatten()).argsort()
        return cls(order, torch.bincount(place).cpu(), rows[:, 0], rows[:, -1], S)


def apart(starts: Tensor, k: int) -> Tensor:
    """Return a place for every token of a row such that k - 1 are free before each document.

    int64 of shape (B, T): what a convolution of kernel k reads across a boundary is then zero.
    """
    documents = starts.long().cumsum(1) - 1
    return torch.arange(starts.shape[1], device=starts.device) + (k - 1) * documents


def spread(rows: Tensor, places: Tensor) -> Tensor:
    """Return rows of shape (B, T, d) with each token at its place, and zeros between them."""
    index = places[..., None].expand(-1, -1, rows.shape[-1])
    wide = rows.new_zeros(rows.shape[0], int(places[:, -1].max()) + 1, rows.shape[-1])
    return wide.scatter(1, index, rows)


def gathered(wide: Tensor, places: Tensor) -> Tensor:
    """Return the tokens that `spread` has put at these places."""
    return wide.gather(1, places[..., None].expand(-1, -1, wide.shape[-1]))


def shifted(rows: Tensor, k: int) -> Tensor:
    """Return rows of shape (B, d, T) with the k - 1 zeros in front that a causal kernel reads."""
    return pad(rows, (k - 1, 0))
