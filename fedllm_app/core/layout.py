"""The order in which trainable tensors lie in one flat vector, and its name on the wire.

Shapes: P number of trainable parameters.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from fedllm_app.core.errors import WireError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ParamLayout:
    """Ordered names and shapes of the trainable tensors, as PEFT saves them.

    Attributes
    ----------
    names : tensor names without adapter or wrapper prefixes, each once.
    shapes : one shape per name.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, "Tensor"]]) -> "ParamLayout":
        """Return the layout of (name, tensor) pairs in the order given."""
        pairs = list(tensors)
        return cls(tuple(n for n, _ in pairs), tuple(tuple(t.shape) for _, t in pairs))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each tensor."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Position of each tensor's first entry in the flat vector."""
        starts, total = [], 0
        for size in self.sizes:
            starts.append(total)
            total += size
        return tuple(starts)

    @cached_property
    def size(self) -> int:
        """Length P of the flat vector."""
        return sum(self.sizes)

    @cached_property
    def hash(self) -> str:
        """32 hexadecimal digits that two layouts share only if all names and shapes agree."""
        text = json.dumps([self.names, self.shapes])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def span(self, name: str) -> slice:
        """Return where the tensor lies in the flat vector."""
        i = self.names.index(name)
        return slice(self.offsets[i], self.offsets[i] + self.sizes[i])

    def missed(self, positions_K: np.ndarray) -> list[str]:
        """Return the tensors in which none of these positions, ascending, lies."""
        starts = np.searchsorted(positions_K, (*self.offsets, self.size))
        return [n for n, count in zip(self.names, np.diff(starts), strict=True) if not count]

    def flatten(self, tensors: Mapping[str, "Tensor"]) -> "Tensor":
        """Return a new float32 tensor of shape (P,).

        Raises
        ------
        WireError
            If names or shapes differ from this layout; the message names the first difference.
        """
        import torch

        other = ParamLayout.of((n, tensors[n]) for n in self.names if n in tensors)
        if other != self:
            raise WireError(self.first_difference(other))
        return torch.cat([tensors[n].detach().reshape(-1).float() for n in self.names])

    def unflatten(self, flat_P: "Tensor") -> dict[str, "Tensor"]:
        """Return views of `flat_P`, one per tensor, in order."""
        if flat_P.numel() != self.size:
            raise WireError(f"flat vector has {flat_P.numel()} entries; expected {self.size}")
        return {
            name: flat_P[start : start + size].view(shape)
            for name, shape, start, size in zip(
                self.names, self.shapes, self.offsets, self.sizes, strict=True
            )
        }

    def first_difference(self, other: "ParamLayout") -> str:
        """Return a sentence that names the first tensor in which the two layouts differ."""
        mine = list(zip(self.names, self.shapes, strict=True))
        theirs = list(zip(other.names, other.shapes, strict=True))
        for i, (a, b) in enumerate(zip(mine, theirs, strict=False)):
            if a != b:
                return f"tensor {i} is {b[0]!r} {list(b[1])}; expected {a[0]!r} {list(a[1])}"
        if len(mine) != len(theirs):
            i = min(len(mine), len(theirs))
            longer = (mine if len(mine) > len(theirs) else theirs)[i]
            side = "missing" if len(mine) > len(theirs) else "not expected"
            return f"tensor {i} {longer[0]!r} {list(longer[1])} is {side}"
        return "the layouts are the same"
