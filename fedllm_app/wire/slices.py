"""How a layout is cut into slices of coordinates that are alike: ranks of adapters, rows of others.

Shapes: P flat trainable parameters, S slices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.lora import lora_rank_axis


@dataclass(frozen=True, eq=False)
class Slices:
    """How a layout is cut: an adapter along its ranks, any other tensor along its first axis.

    Attributes
    ----------
    lengths : coordinates in each slice, int64 of shape (S,).
    tensor : the tensor that a slice is of, int64 of shape (S,).
    first, step : where each slice's first coordinate lies in the flat order, and how far from one
        to the next: int64 of shape (S,).
    turned : (start, rows, columns) of tensors whose slices are their columns, as those of a B.
    """

    lengths: np.ndarray
    tensor: np.ndarray
    first: np.ndarray
    step: np.ndarray
    turned: Sequence[tuple[int, int, int]]

    @property
    def starts(self) -> np.ndarray:
        """Where each slice begins in the order of slices, int64 of shape (S,)."""
        starts: np.ndarray = np.cumsum(self.lengths) - self.lengths
        return starts

    def reorder(self, vector_P: np.ndarray) -> np.ndarray:
        """Return a vector of the flat order in the order of slices."""
        turned_P = vector_P.copy()
        for start, rows, columns in self.turned:
            part = slice(start, start + rows * columns)
            turned_P[part] = vector_P[part].reshape(rows, columns).T.reshape(-1)
        return turned_P

    def restore(self, turned_P: np.ndarray) -> np.ndarray:
        """Return a vector in the order of slices in the flat order again."""
        vector_P = turned_P.copy()
        for start, rows, columns in self.turned:
            part = slice(start, start + rows * columns)
            vector_P[part] = turned_P[part].reshape(columns, rows).T.reshape(-1)
        return vector_P

    def flat(self, slice_K: np.ndarray, offset_K: np.ndarray) -> np.ndarray:
        """Return flat positions of coordinates, each by its slice and its place in the slice."""
        flat_K: np.ndarray = self.step[slice_K]
        flat_K *= offset_K
        flat_K += self.first[slice_K]
        return flat_K


@dataclass(frozen=True)
class Origin:
    """Whose parameters a payload holds: sender and receiver must have the same.

    Attributes
    ----------
    P : flat trainable parameters.
    layout_hash, fingerprint : of their layout and of the base below them, 32 hexadecimal digits.
    slices : how the layout is cut; without them positions by slice are neither tried nor read.
    """

    P: int
    layout_hash: str
    fingerprint: str
    slices: Slices | None = None


@lru_cache(maxsize=8)
def slices_of(layout: ParamLayout) -> Slices:
    """Return how a layout is cut."""
    parts: list[tuple[np.ndarray, ...]] = []
    turned = []
    for t, (name, shape) in enumerate(zip(layout.names, layout.shapes, strict=True)):
        size, start = layout.sizes[t], layout.offsets[t]
        across = lora_rank_axis(name) == 1 and size == shape[0] * shape[1] > 0
        count = (shape[1] if across else shape[0]) if len(shape) > 1 and size else 1
        length = size // count
        if across:
            turned.append((start, length, count))
        numbers = np.arange(count, dtype=np.int64)
        parts.append((
            np.full_like(numbers, length), np.full_like(numbers, t),
            start + numbers * (1 if across else length), np.full_like(numbers, count * across or 1),
        ))  # fmt: skip
    lengths, tensor, first, step = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Slices(lengths, tensor, first, step, tuple(turned))


def origin_of(layout: ParamLayout, fingerprint: str) -> Origin:
    """Return whose parameters a payload of this layout holds, upon the base of that name."""
    return Origin(layout.size, layout.hash, fingerprint, slices_of(layout))
