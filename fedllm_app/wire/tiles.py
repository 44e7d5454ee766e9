"""The largest of every block of a matrix (SparseLoCo, arXiv 2508.15706).

A block is a square of a tensor of two axes, or a run of as many entries of one with one axis; at
the edges blocks are smaller. A tensor of more axes counts as a matrix of its first axis and the
rest. Each block keeps the same fraction of its own entries, so that no tensor is left out because
another moves further. Of equal magnitudes the lower position is kept, as in `select.py`.

Shapes: P flat trainable parameters, B blocks of n entries each.
"""

from collections.abc import Iterator

import numpy as np

from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.region import Where
from fedllm_app.wire.marks import mask_of
from fedllm_app.wire.select import magnitudes, top_count

RUN = 1 << 20  # entries of one axis that are looked at together


def block_positions(
    values_P: np.ndarray,
    density: float,
    side: int,
    layout: ParamLayout,
    free_P: np.ndarray | None = None,
) -> np.ndarray:
    """Return the positions of the `density` fraction of largest magnitude of every block.

    Beside values and positions it takes memory for one row of blocks.

    Parameters
    ----------
    values_P : float32 array of shape (P,), all finite.
    density : fraction of the candidates of a block that is kept, in (0, 1]: `top_count` of them.
    side : of a square block; a run of one axis has side * side entries.
    free_P : bool array of shape (P,): the candidates; None for all.

    Returns
    -------
    int64 array, ascending, of `block_count` positions.

    Raises
    ------
    ConfigError
        If density is outside (0, 1].
    WireError
        If a value is NaN or infinite.
    """
    found = [np.zeros(0, np.int64)]
    for start, rows, columns, width in _bands(layout, side):
        part = slice(start, start + rows * columns)
        size = magnitudes(values_P[part]).view(np.int32).reshape(rows, columns)
        if free_P is not None:  # below every magnitude, so that it is never taken
            size[~free_P[part].reshape(rows, columns)] = -1
        kept = np.zeros((rows, columns), dtype=np.bool_)
        for cut in _cuts(columns, width):
            tiles = _tiles(size[:, cut], width)
            mask = _largest(tiles, density, free_P is not None)
            back = mask.reshape(len(tiles), rows, -1).swapaxes(0, 1)
            kept[:, cut] = back.reshape(rows, -1)
        found.append(np.flatnonzero(kept) + start)
    return np.concatenate(found)


def block_count(
    density: float, side: int, layout: ParamLayout, free_P: np.ndarray | None = None
) -> int:
    """Return the number of positions that `block_positions` returns."""
    count = 0
    for start, rows, columns, width in _bands(layout, side):
        for cut in _cuts(columns, width):
            own = min(width, cut.stop - cut.start)
            if free_P is None:
                blocks = (cut.stop - cut.start) // own
                count += blocks * top_count(rows * own, density)
                continue
            part = free_P[start : start + rows * columns].reshape(rows, columns)[:, cut]
            count += int(_counts(_tiles(part, width).sum(axis=1), density).sum())
    return count


def candidates_of(within: Where, always: np.ndarray | None, P: int) -> np.ndarray | None:
    """Return what of `within` is not in `always`, bool of shape (P,); None is all."""
    if within is None and always is None:
        return None
    free_P = mask_of(within, P)
    if always is not None:
        free_P[always] = False
    return free_P


def _bands(layout: ParamLayout, side: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (start, rows, columns, columns of a block) of parts that are one block high."""
    for shape, start, size in zip(layout.shapes, layout.offsets, layout.sizes, strict=True):
        if len(shape) > 1 and size:
            columns = size // shape[0]
            for row in range(0, shape[0], side):
                yield start + row * columns, min(side, shape[0] - row), columns, side
            continue
        step = side * side * max(1, RUN // (side * side))
        for at in range(0, size, step):
            yield start + at, 1, min(step, size - at), side * side


def _cuts(columns: int, width: int) -> list[slice]:
    """Return the columns of all whole blocks together, and those of the last, smaller one."""
    whole = columns - columns % width
    return [cut for cut in (slice(0, whole), slice(whole, columns)) if cut.start < cut.stop]


def _tiles(band: np.ndarray, width: int) -> np.ndarray:
    """Return blocks as rows of shape (B, n): their own order is that of flat positions."""
    rows, columns = band.shape
    blocks = band.reshape(rows, -1, min(width, columns)).swapaxes(0, 1)
    tiles: np.ndarray = blocks.reshape(len(blocks), -1)
    return tiles


def _largest(size: np.ndarray, density: float, some: bool) -> np.ndarray:
    """Return which of each block's entries are kept, bool of shape (B, n)."""
    B, n = size.shape
    if some:
        kept_B = _counts((size >= 0).sum(axis=1), density)
        least_B = np.sort(size, axis=1)[np.arange(B), np.minimum(n - kept_B, n - 1)]
        least_B[kept_B == 0] = np.iinfo(np.int32).max
    else:
        K = top_count(n, density)
        kept_B = np.full(B, K)
        least_B = np.partition(size, n - K, axis=1)[:, n - K]
    kept: np.ndarray = size >= least_B[:, None]
    for tile in np.flatnonzero(kept.sum(axis=1) > kept_B).tolist():
        ties = np.flatnonzero(size[tile] == least_B[tile])
        kept[tile, ties[int(kept_B[tile]) - int(kept[tile].sum()) :]] = False
    return kept


def _counts(free_B: np.ndarray, density: float) -> np.ndarray:
    """Return `top_count` of each block's candidates, 0 of none."""
    return np.array([top_count(int(W), density) if W else 0 for W in free_B.tolist()], np.int64)
