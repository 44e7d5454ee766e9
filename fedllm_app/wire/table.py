"""The table of magnitudes that q4 and q3 share over a section.

For rounding at random it spans all magnitudes: of a few such tables the one that errs least. For
rounding to the nearest it is fitted: every level is the mean of what is rounded to it.

Shapes: N values of one section, L levels.
"""

import numpy as np

from fedllm_app.wire.blocks import parts

LARGEST_LEVEL = float(np.uint32(0x7F7F0000).view(np.float32))
MOST_FITS = 100
SAMPLE, STARTS = 4096, 24  # values that a table is chosen by, and tables there are to choose from
# Up to here the sample is taken from a sorted copy; above, in one pass without a copy.
MOST_COPIED = 16_000_000


def table_for(values_N: np.ndarray, L: int) -> np.ndarray:
    """Return L ascending levels for magnitudes, the smallest and the largest among them.

    Candidates begin at the smallest and go on geometrically, from there or from some part of the
    largest; the one of least expected error over a sample is taken. The largest are all in it:
    a few of them can outweigh all others.
    """
    level_L = np.zeros(L, dtype=np.float32)
    if not values_N.size:
        return level_L
    least, most = _range(values_N)
    seen, weight = _sample(values_N)
    best, starts = np.inf, float(most) * 0.5 ** np.arange(1, STARTS)
    for second in (None, *starts[starts > least]):
        if second is None and not least:
            continue
        table = np.empty(L, dtype=np.float32)
        if second is None:
            table[:] = np.geomspace(least, most, L)
        else:
            table[1:] = np.geomspace(second, most, L - 1)
        table[0], table[-1] = least, most
        low = below(seen, table)
        above = table[np.minimum(low + np.uint8(1), L - 1)]
        error = float(np.dot((seen - table[low]) * weight, above - seen))
        if error < best:
            best, level_L = error, table
    return level_L if np.isfinite(best) else np.full(L, most, dtype=np.float32)


def fitted_table(values_N: np.ndarray, L: int) -> np.ndarray:
    """Return L ascending levels of the least squared error for rounding to the nearest.

    Lloyd's iterations (Lloyd 1982) over a sample, from the table for rounding at random.
    """
    level_L = table_for(values_N, L)
    if not values_N.size:
        return level_L
    size, weight = _sample(values_N)
    for _ in range(MOST_FITS):
        nearest = np.searchsorted((level_L[1:] + level_L[:-1]) / 2, size)
        count_L = np.bincount(nearest, weight, L)
        total_L = np.bincount(nearest, weight * size, L)
        fitted_L = np.where(count_L > 0, total_L / np.maximum(count_L, 1), level_L)
        fitted_L = fitted_L.astype(np.float32)
        if np.allclose(fitted_L, level_L, rtol=1e-4, atol=0):
            break
        level_L = fitted_L
    return np.sort(level_L)


def below(size: np.ndarray, level_L: np.ndarray) -> np.ndarray:
    """Return for each magnitude the last level that is not above it, or the first: uint8."""
    # Levels are few: to compare with each is quicker than a search.
    low = np.zeros(size.size, dtype=np.uint8)
    for level in level_L[1:]:
        low += (size >= level).view(np.uint8)
    return low


def _range(values_N: np.ndarray) -> tuple[np.float32, np.float32]:
    """Return the smallest and the largest magnitude."""
    least, most = np.float32(np.inf), np.float32(0)
    for part in parts(values_N.size):
        size = np.abs(values_N[part])
        least, most = min(least, size.min()), max(most, size.max())
    return least, most


def _sample(values_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return some magnitudes and how many each stands for: the largest all, of the rest a few."""
    largest = SAMPLE // 2
    rest = values_N.size - largest
    if rest <= SAMPLE - largest:
        return np.abs(values_N), np.ones(values_N.size, dtype=np.float32)
    stride = -(-rest // (SAMPLE - largest))
    if values_N.size <= MOST_COPIED:
        parted = np.abs(values_N)
        parted.partition(rest)
        few, top = parted[:rest:stride], parted[rest:]
    else:
        top = _top(values_N, largest)
        few = np.abs(values_N[:: stride | 1])  # odd, so that it does not follow a tensor's columns
        few = few[few <= top[0]]
    weight = np.ones(few.size + top.size, dtype=np.float32)
    weight[: few.size] = stride
    return np.concatenate([few, top]), weight


def _top(values_N: np.ndarray, count: int) -> np.ndarray:
    """Return the largest magnitudes, the least of them first."""
    top = np.zeros(0, dtype=np.float32)
    for part in parts(values_N.size):
        size = np.abs(values_N[part])
        top = np.concatenate([top, size if top.size < count else size[size > top[0]]])
        if top.size > count:
            top.partition(top.size - count)
            top = top[-count:]
    return top
