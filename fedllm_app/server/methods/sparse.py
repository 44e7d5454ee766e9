"""What every sparse method has: how the largest entries are chosen, and what a device keeps.

Shapes: P trainable parameters, K chosen coordinates.
"""

from typing import Any

import numpy as np

from fedllm_app.core.plan import MeanOver, TopK
from fedllm_app.core.region import positions_of
from fedllm_app.core.rules import HEAD
from fedllm_app.core.support import All, Derived, Draw, Positions, Support, expand
from fedllm_app.server.methods.base import Inputs
from fedllm_app.wire.select import top_positions
from fedllm_app.wire.tiles import block_positions, candidates_of

FEEDBACK = ("error-feedback", "feedback-decay", "rounding")
BLOCKS = ("top-k", "block")


def feedback(inputs: Inputs) -> dict[str, Any]:
    """Return the fields of a plan that say what becomes of what an upload leaves out."""
    settings = inputs.settings
    if not settings.error_feedback:
        return {"rounding": settings.rounding or "random"}
    decay = settings.feedback_decay
    return {
        "keeps": frozenset({"residual"}),
        "decay": 1.0 if decay < 0 else decay,
        "rounding": settings.rounding or "random",
    }


def largest_up(inputs: Inputs, density: float) -> TopK | All:
    """Return what a device sends: the largest of its change, by a choice of its own."""
    if density >= 1:
        return All()
    return TopK(density, always=always(inputs), side=side(inputs))


def largest_down(inputs: Inputs, density: float) -> Support:
    """Return what is largest of what goes down, with the head whole where the settings say so."""
    return All() if density >= 1 else Positions(largest_positions(inputs, density))


def largest_positions(inputs: Inputs, density: float) -> np.ndarray:
    """Return the positions of what is largest of what goes down, int64 of shape (K,)."""
    whole = head(inputs)
    if not (blocks := side(inputs)):
        return top_positions(inputs.down, density, always=whole)
    free_P = candidates_of(None, whole, inputs.layout.size)
    top = block_positions(inputs.down, density, blocks, inputs.layout, free_P)
    return top if whole is None else np.union1d(top, whole)


def side(inputs: Inputs) -> int:
    """Return the side of the blocks that each have a top of their own, 0 for one top of all."""
    return inputs.settings.block if inputs.settings.top_k == "block" else 0


def always(inputs: Inputs) -> Derived | None:
    """Return the head where it is always sent whole."""
    return HEAD if inputs.settings.head == "whole" else None


def head(inputs: Inputs) -> np.ndarray | None:
    """Return the positions of a head that is always sent whole, None where it competes."""
    whole = always(inputs)
    if whole is None:
        return None
    return positions_of(expand(whole, inputs.layout, Draw(inputs.seed)), inputs.layout.size)


def mean_of(inputs: Inputs) -> MeanOver:
    """Return what the sum is divided by."""
    return "senders" if inputs.settings.mean == "senders" else "cohort"
