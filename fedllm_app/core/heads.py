"""Where the attention heads of a model lie in its trainable tensors.

A unit is one key-value group: its key and value head, and the query heads that attend with them.
Without grouped queries it is one head. A unit's part of a matrix is a run of rows or columns:

    rows      W_q, W_k, W_v and their biases; also W_qkv whose rows go head by head (GPT-NeoX)
    columns   W_o
    blocks    W_qkv as [all queries, all keys, all values], along one axis (GPT-2, Phi-3)

Of LoRA adapters these are the rows of B for q, k, v, and the columns of A for o. What all heads
share (A of q, k, v; B of o; the bias of o) belongs to no unit.

Source: Szablewski, Sani, Lane 2025 (a one-page abstract): rows of W_q, W_k, W_v, columns of W_o.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Block = tuple[str, int, tuple[int, ...]]  # pattern of names, axis, sizes of the parts


@dataclass(frozen=True)
class Heads:
    """The units of a model's attention.

    Attributes
    ----------
    of : how many units there are, in every layer alike; 0 where they are not known.
    rows, columns : patterns of tensors whose first or second axis has the units one after another.
    blocks : tensors with several parts along one axis, each of which has all units.
    why : why they are not known.
    """

    of: int
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()
    blocks: Sequence[Block] = ()
    why: str = ""

    def args(self, first: int, heads: int, only: bool) -> dict[str, Any]:
        """Return the arguments of the rule `head-slices`.

        Parameters
        ----------
        first : where in the round's order of units this client's begin.
        heads : how many it trains.
        only : tensors outside attention are not trained.
        """
        found: dict[str, Any] = {
            "rows": list(self.rows), "columns": list(self.columns), "of": self.of,
            "first": first % self.of, "heads": heads, "only": only,
        }  # fmt: skip
        if self.blocks:
            found["blocks"] = [[name, axis, list(sizes)] for name, axis, sizes in self.blocks]
        return found


def block_of(args: Mapping[str, Any]) -> list[Block]:
    """Return the blocks of a rule's arguments."""
    return [(str(n), int(axis), tuple(map(int, s))) for n, axis, s in args.get("blocks", [])]
