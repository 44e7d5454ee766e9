"""How a layout is cut into slices of coordinates that are alike: ranks of adapters, rows of others.

Shapes: P flat trainable parameters, S slices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fedllm_app.core.derive import lora_rank_axis
from fedllm_app.core.layout import ParamLayout


@dataclass(frozen=True, eq=False)
class Slices:
    """How a layout is cut: an adapter along its ranks, any other tensor along its first axis.

    Attributes
    ----------
    lengths : coordinates in each slice, int64 of shape (S,).
    tensor : the tensor that a slice is of, int64 of shape (S,).
    turned : (start, shape) of tensors whose slices lie across the flat order: a B is cut into its
        columns.
    """

    lengths: np.ndarray
    tensor: np.ndarray
    turned: Sequence[tuple[int, tuple[int, int, int]]]

    @property
    def starts(self) -> np.ndarray:
        """Where each slice begins in the order of slices, int64 of shape (S,)."""
        starts: np.ndarray = np.cumsum(self.lengths) - self.lengths
        return starts

    def turn(self, mask_P: np.ndarray, back: bool = False) -> np.ndarray:
        """Return a mask over the flat order in the order of slices, or back."""
        turned_P = mask_P.copy()
        for start, (rows, columns, rest) in self.turned:
            first, second = (columns, rows) if back else (rows, columns)
            part = slice(start, start + rows * columns * rest)
            block = mask_P[part].reshape(first, second, rest).transpose(1, 0, 2)
            turned_P[part] = block.reshape(-1)
        return turned_P


@lru_cache(maxsize=8)
def slices_of(layout: ParamLayout) -> Slices:
    """Return how a layout is cut."""
    lengths, tensor, turned = [], [], []
    for t, (name, shape) in enumerate(zip(layout.names, layout.shapes, strict=True)):
        size, axis = layout.sizes[t], lora_rank_axis(name) or 0
        count = shape[axis] if len(shape) > 1 and size else 1
        lengths.append(np.full(count, size // count, dtype=np.int64))
        tensor.append(np.full(count, t, dtype=np.int64))
        if axis == 1 and len(shape) > 1 and size:
            turned.append((layout.offsets[t], (shape[0], shape[1], size // shape[0] // shape[1])))
    return Slices(np.concatenate(lengths), np.concatenate(tensor), tuple(turned))
