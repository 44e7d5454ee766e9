"""A set of coordinates of the flat vector as slices of its tensors, or as positions, or all.

A `Region` takes a few numbers for each tensor and none for each coordinate. Its views of a tensor
need no copy, so that what lies outside costs a device nothing.

Shapes: P trainable parameters, K coordinates of a set.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.layout import ParamLayout

if TYPE_CHECKING:
    from torch import Tensor

Ranges = tuple[tuple[int, int], ...]
Vector = TypeVar("Vector", np.ndarray, "Tensor")


@dataclass(frozen=True)
class Piece:
    """Some entries of one tensor: ranges along one of its axes.

    Attributes
    ----------
    start : where the tensor begins in the flat vector.
    outer, length, inner : the tensor's shape, folded to three axes; the ranges are on the second.
    ranges : (first, stop) along that axis, ascending and apart from each other.
    """

    start: int
    outer: int
    length: int
    inner: int
    ranges: Ranges

    @property
    def stop(self) -> int:
        """Where the tensor ends in the flat vector."""
        return self.start + self.outer * self.length * self.inner

    @property
    def size(self) -> int:
        """Entries that are meant."""
        return self.outer * self.inner * sum(stop - first for first, stop in self.ranges)

    def views(self, flat_P: Vector) -> list[Vector]:
        """Return views of a flat vector, one for each range, each of three axes."""
        part = flat_P[self.start : self.stop].reshape(self.outer, self.length, self.inner)
        return [part[:, first:stop] for first, stop in self.ranges]

    def positions(self, begin: int, end: int) -> np.ndarray:
        """Return the flat positions of the entries number `begin` to `end`, int64, ascending."""
        first, stop = np.array(self.ranges, dtype=np.int64).T * self.inner
        edges = np.append(0, np.cumsum(stop - first))
        row, column = np.divmod(np.arange(begin, end, dtype=np.int64), edges[-1])
        which = np.searchsorted(edges, column, side="right") - 1
        column += first[which] - edges[which]
        found: np.ndarray = self.start + row * (self.length * self.inner) + column
        return found


@dataclass(frozen=True)
class Region:
    """A set of coordinates as slices of tensors; it takes no memory for each coordinate.

    Attributes
    ----------
    pieces : at most one for each tensor, in the order of the layout.
    """

    pieces: tuple[Piece, ...]

    @cached_property
    def size(self) -> int:
        """Number K of coordinates."""
        return sum(piece.size for piece in self.pieces)

    def views(self, flat_P: Vector) -> list[Vector]:
        """Return views of a flat vector that together are the set, each of three axes."""
        return [view for piece in self.pieces for view in piece.views(flat_P)]

    def take(self, flat_P: np.ndarray) -> np.ndarray:
        """Return the values of the set, shape (K,), in ascending order of coordinates."""
        parts = [np.zeros(0, flat_P.dtype)]
        for piece in self.pieces:
            views = piece.views(flat_P)
            parts.append((views[0] if len(views) == 1 else np.concatenate(views, 1)).reshape(-1))
        return np.concatenate(parts)

    def put(self, flat_P: np.ndarray, values_K: np.ndarray) -> None:
        """Write values of shape (K,), in ascending order of coordinates, into a flat vector."""
        for view, values in self.placed(flat_P, values_K):
            view[...] = values

    def placed(
        self, flat_P: np.ndarray, values_K: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield views of a flat vector, each with its part of the values of shape (K,)."""
        at = 0
        for piece in self.pieces:
            values = values_K[at : at + piece.size].reshape(piece.outer, -1, piece.inner)
            at, column = at + piece.size, 0
            for (first, stop), view in zip(piece.ranges, piece.views(flat_P), strict=True):
                yield view, values[:, column : column + stop - first]
                column += stop - first

    def part(self, span: slice) -> np.ndarray:
        """Return the flat positions of a part of the K coordinates, int64, ascending."""
        found, begin = [np.zeros(0, np.int64)], 0
        for piece in self.pieces:
            low, high = max(span.start - begin, 0), min(span.stop - begin, piece.size)
            if low < high:
                found.append(piece.positions(low, high))
            begin += piece.size
        return np.concatenate(found)

    def positions(self) -> np.ndarray:
        """Return the coordinates as int64 of shape (K,), ascending: 8 bytes for each."""
        return self.part(slice(0, self.size))


Where = Region | np.ndarray | None  # a set of coordinates: slices, positions, or all of them
Slice = tuple[str, tuple[slice, ...]]  # a tensor, and slices of its axes, of which one is not full


def region_of(layout: ParamLayout, slices: list[Slice]) -> Region:
    """Return the region of slices of tensors; several of one tensor are along the same axis."""
    by_tensor: dict[str, list[tuple[slice, ...]]] = {}
    for name, axes in slices:
        by_tensor.setdefault(name, []).append(axes)
    pieces = []
    for i, name in enumerate(layout.names):
        if name in by_tensor and layout.sizes[i]:
            pieces.append(_piece(layout.offsets[i], layout.shapes[i], by_tensor[name]))
    return Region(tuple(piece for piece in pieces if piece.ranges))


def positions_of(where: Where, P: int) -> np.ndarray:
    """Return a set as int64 positions, ascending."""
    if where is None:
        return np.arange(P, dtype=np.int64)
    return where.positions() if isinstance(where, Region) else where


def size_of(where: Where, P: int) -> int:
    """Return the number of coordinates in a set."""
    return P if where is None else int(where.size)


def take(flat_P: np.ndarray, where: Where) -> np.ndarray:
    """Return the values of a set, ascending; the vector itself where the set is all."""
    if where is None:
        return flat_P
    values: np.ndarray = where.take(flat_P) if isinstance(where, Region) else flat_P[where]
    return values


def put(flat_P: np.ndarray, where: Where, values_K: np.ndarray) -> None:
    """Write the values of a set into a flat vector."""
    if where is None:
        flat_P[...] = values_K
    elif isinstance(where, Region):
        where.put(flat_P, values_K)
    else:
        flat_P[where] = values_K


def _piece(start: int, shape: tuple[int, ...], several: list[tuple[slice, ...]]) -> Piece:
    """Return the piece of one tensor that several slices along one axis make together."""
    several = [_trimmed(axes, shape) for axes in several]
    if any(not axes for axes in several):
        return Piece(start, 1, int(np.prod(shape)), 1, ((0, int(np.prod(shape))),))
    axis = len(several[0]) - 1
    if any(len(axes) - 1 != axis for axes in several):
        raise ConfigError("a rule slices one tensor along several axes; expected one axis")
    length, ranges = shape[axis], list[tuple[int, int]]()
    for first, stop, _ in sorted(axes[axis].indices(length) for axes in several):
        if ranges and first <= ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], max(stop, ranges[-1][1]))
        elif stop > first:
            ranges.append((first, stop))
    outer, inner = int(np.prod(shape[:axis])), int(np.prod(shape[axis + 1 :]))
    return Piece(start, outer, length, inner, tuple(ranges))


def _trimmed(axes: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the slices without full ones at the end; one axis at most may be cut, in one run."""
    bounds = [axis.indices(size) for axis, size in zip(axes, shape, strict=False)]
    full = [b == (0, size, 1) for b, size in zip(bounds, shape, strict=False)]
    while full and full[-1]:
        full.pop()
    if not all(full[:-1]) or any(step != 1 for _, _, step in bounds) or len(axes) > len(shape):
        raise ConfigError(
            f"a rule slices a tensor of shape {list(shape)} by {axes}; expected one axis cut, "
            "with steps of 1"
        )
    return axes[: len(full)]
