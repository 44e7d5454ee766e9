"""The coordinates that local training may move, as tensors for an optimizer.

All of a vector, and slices of it, are views: a step on them is a step of the model, and what lies
outside costs nothing. Scattered positions are gathered before and written back after each step.
On a CPU a long vector comes in blocks: an optimizer goes over its tensors a dozen times, which is
twice as fast where they stay in the cache, and its intermediate results are short.

Shapes: P parameters that the device holds, K coordinates that may move.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.region import Region, Where

BLOCK = 1 << 17  # coordinates of a part, where all may move
STEPS = "step"  # what torch calls its count of steps


class Moving:
    """Parts of a flat vector.

    Parameters
    ----------
    flat, grad : values and gradients of shape (P,).
    where : the coordinates that may move.
    layout : of the flat vector.
    split : tensors of one axis (norms, biases) are parts of their own.

    Attributes
    ----------
    parts : the tensors to step.
    whole : whether they are all of the vector, one after the other.
    size : P.
    decays : for each part, whether its tensors have more than one axis; all True without `split`.
    """

    def __init__(
        self, flat: Tensor, grad: Tensor, where: Where, layout: ParamLayout, split: bool = False
    ) -> None:
        self._flat, self._grad = flat, grad
        block = BLOCK if flat.device.type == "cpu" else max(1, layout.size)
        self._kept, self.decays = _chosen(where, layout, split, block)
        # Positions are where the values are, and on the CPU, where kept state is.
        self._chosen = [c.to(flat.device) if isinstance(c, Tensor) else c for c in self._kept]
        self._gathered = isinstance(where, np.ndarray)
        self.whole, self.size = where is None, flat.numel()
        self.parts = self.select(flat)

    def gradients(self) -> list[Tensor]:
        """Return the gradient of each part."""
        return self.select(self._grad)

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Return the Euclidean norm of the gradients of all parts together."""
        if self.whole:  # the parts lie one after the other: the vector is theirs joined
            joined = self._grad
        else:
            joined = torch.cat([gradient.reshape(-1) for gradient in gradients])
        found: Tensor = joined.norm()
        return found

    def write_back(self) -> None:
        """Put gathered parts back into the flat vector; views are there already."""
        if self._gathered:
            self._write(self.parts, self._flat)

    def select(self, vector_P: Tensor) -> list[Tensor]:
        """Return the same parts of another vector of shape (P,): views, or gathered."""
        found: list[Tensor] = []
        for chosen in self._where(vector_P):
            found += chosen.views(vector_P) if isinstance(chosen, Region) else [vector_P[chosen]]
        return found

    def spread(self, parts: list[Tensor], before_P: Tensor | None = None) -> Tensor:
        """Return a vector of shape (P,) that holds these parts; the rest is as before, or zero."""
        if before_P is None:
            whole = torch.zeros(self._flat.shape)
        else:
            whole = before_P.clone()
        self._write([part.cpu() for part in parts], whole)
        return whole

    def gather(self, parts: list[Tensor], before_P: Tensor | None) -> Tensor:
        """Return what `spread` would, and hold nothing twice.

        Parameters
        ----------
        parts : the list is emptied, and each part is freed once it is copied.
        before_P : written into where it is given; parts that are views of it are there already.
        """
        made = torch.empty if self.whole else torch.zeros  # no page is touched before its part
        into = made(self._flat.shape) if before_P is None else before_P
        targets = [] if self._gathered else self.select(into)
        while parts:
            part = parts.pop()
            if self._gathered:
                chosen = self._kept[len(parts)]
                assert not isinstance(chosen, Region)
                into[chosen] = part.cpu()
            elif part.data_ptr() != targets[len(parts)].data_ptr():
                targets[len(parts)].copy_(part.cpu())
        return into

    def _where(self, vector_P: Tensor) -> "list[slice | Region | Tensor]":
        """Return what each part selects, positions where the vector is."""
        return self._kept if vector_P.device.type == "cpu" else self._chosen

    def _write(self, parts: list[Tensor], into_P: Tensor) -> None:
        if self._gathered:
            for chosen, part in zip(self._where(into_P), parts, strict=True):
                assert not isinstance(chosen, Region)
                into_P[chosen] = part
            return
        for view, part in zip(self.select(into_P), parts, strict=True):
            view.copy_(part)


def restore(
    optimizer: torch.optim.Optimizer, moving: Moving, kept: Mapping[str, Tensor], P: int
) -> None:
    """Give an optimizer the state that its coordinates had.

    Parameters
    ----------
    kept : by name of the state: tensors of shape (P,) and single numbers. They are taken over:
        the optimizer steps in their memory, so that a large state is held once. Of the steps that
        a part's coordinates have had, the fewest count: Adam's corrections are then right for
        those that begin, and steps of the others are smaller for a while, never larger.
    """
    for name, tensor in kept.items():
        # A count of steps stays on the CPU, where torch looks for it.
        if tensor.shape != (P,):
            for part in moving.parts:
                optimizer.state[part][name] = tensor.clone()
            continue
        if name == STEPS:
            for part, counts in zip(moving.parts, moving.select(tensor), strict=True):
                optimizer.state[part][name] = counts.min() if counts.numel() else torch.zeros(())
            continue
        device = moving.parts[0].device if moving.parts else tensor.device
        for part, value in zip(moving.parts, moving.select(tensor.to(device)), strict=True):
            optimizer.state[part][name] = value


def state_of(
    optimizer: torch.optim.Optimizer, moving: Moving, kept: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the optimizer's state: of the coordinates that moved anew, of the others as it was.

    What was kept is written into. Where the optimizer steps one vector, its own tensors are
    returned, else its state is taken from it part by part. Where only some coordinates move, each
    has a count of steps of its own.
    """
    found: dict[str, Tensor] = {}
    if not moving.parts:
        return dict(kept)
    first, shape = optimizer.state[moving.parts[0]], moving.parts[0].shape
    for name in [name for name, value in first.items() if isinstance(value, Tensor)]:
        before = kept.get(name)
        if name == STEPS and (not moving.whole or (before is not None and before.ndim)):
            counts = [torch.full(p.shape, float(optimizer.state[p][name])) for p in moving.parts]
            if before is not None and not before.ndim:
                before = before.expand(moving.size)
            found[name] = moving.spread(counts, before)
            continue
        if first[name].shape != shape or (moving.whole and len(moving.parts) == 1):
            found[name] = first[name].cpu()
            continue
        parts = [optimizer.state[part].pop(name) for part in moving.parts]
        found[name] = moving.gather(parts, before)
    return found


def _chosen(
    where: Where, layout: ParamLayout, split: bool, block: int
) -> tuple[list["slice | Region | Tensor"], list[bool]]:
    """Return what each part selects, and whether weight decay is for it."""
    if isinstance(where, Region):
        found: list[slice | Region | Tensor] = [Region((piece,)) for piece in where.pieces]
        decays = [
            not split or _decays(layout, piece.start)
            for piece in where.pieces
            for _ in piece.ranges
        ]
        return found, decays
    if where is None:
        spans = _spans(layout, split, block)
        return [slice(a, b) for a, b, _ in spans], [decays for _, _, decays in spans]
    if not split:
        return [torch.from_numpy(where)], [True]
    tensor_K = np.searchsorted(layout.offsets, where, side="right") - 1
    wide_K = np.array([len(shape) > 1 for shape in layout.shapes])[tensor_K]
    kinds = [wide for wide in (True, False) if (wide_K == wide).any()]
    return [torch.from_numpy(where[wide_K == wide]) for wide in kinds], kinds


def _spans(layout: ParamLayout, split: bool, block: int) -> list[tuple[int, int, bool]]:
    """Return begin and end of blocks that are all of a vector, and whether each decays."""
    spans: list[tuple[int, int, bool]] = []
    if not split:
        spans = [(0, layout.size, True)]
    else:
        for shape, start, size in zip(layout.shapes, layout.offsets, layout.sizes, strict=True):
            if spans and spans[-1][2] == (len(shape) > 1):
                spans[-1] = (spans[-1][0], start + size, spans[-1][2])
            else:
                spans.append((start, start + size, len(shape) > 1))
    return [
        (start, min(start + block, end), decays)
        for begin, end, decays in spans
        for start in range(begin, end, block)
    ]


def _decays(layout: ParamLayout, start: int) -> bool:
    return len(layout.shapes[layout.offsets.index(start)]) > 1
