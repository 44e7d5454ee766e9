"""q2: two bits for a value, a sign and one of two magnitudes; a pair for every 1,024 values.

Two magnitudes cannot span a section whose tensors differ by powers of ten, so that every stretch of
values has its own: values stand in the order of positions, and so a stretch is of one tensor, or of
a part of one. That is one sixteenth of a bit for a value.

To the nearest, the pair is the one of least squared error (2-means, which has an exact solution in
one dimension); what is left out is for error feedback to keep. At random, the mean over draws is
the value: the upper level is the largest magnitude, and what is below the lower one becomes plus or
minus it. The lower one is that of least expected error.

A code of its own marks a coordinate not sent; where it is needed, one magnitude is left.

Shapes: N values, T stretches of `STRETCH` values (the last may be shorter), L = 2 or 1 magnitudes.
"""

import numpy as np

from fedllm_app.core.errors import WireError
from fedllm_app.wire.table import LARGEST_LEVEL

STRETCH = 1024
TOGETHER = 16  # stretches whose pairs are found together
NOT_SENT = 2


def quantize_pairs(
    values_N: np.ndarray, sent_N: np.ndarray | None, rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return (magnitudes, float32 of shape (T, L); codes, uint8 of shape (N,)).

    Parameters
    ----------
    values_N : float32.
    sent_N : which of them are sent, L is then 1 and the codes of the others `NOT_SENT`; None is all
        of them, and L is 2.
    rng : draws the rounding; None rounds to the nearest.
    """
    N, T = values_N.size, -(-values_N.size // STRETCH)
    there, size = np.zeros(T * STRETCH, np.bool_), np.zeros(T * STRETCH, np.float32)
    there[:N] = True if sent_N is None else sent_N
    np.abs(values_N, out=size[:N])
    size[~there] = 0
    size_T, there_T = size.reshape(T, STRETCH), there.reshape(T, STRETCH)
    if sent_N is not None:
        level_TL = _one(size_T, there_T, rng is None)[:, None]
    else:
        fit, parts = _nearest if rng is None else _at_random, range(0, T, TOGETHER)
        found = [fit(size_T[i : i + TOGETHER], there_T[i : i + TOGETHER]) for i in parts]
        level_TL = np.concatenate([np.zeros((0, 2), np.float32), *found])
    low, high = (np.repeat(level_TL[:, i], STRETCH)[:N] for i in (0, -1))
    size, negative = size[:N], values_N < 0
    if rng is None:
        upper = size - low > high - size
    else:
        draw = rng.random(N, dtype=np.float32)
        gap = np.where(high > low, high - low, np.float32(1))
        upper = (size > low) & (draw * gap < size - low)
        # Below the lower level a sign is drawn: plus with the probability (1 + value / level) / 2.
        level = np.where(low > 0, low, np.float32(1))
        negative = np.where(size < low, draw >= (1 + values_N / level) / 2, negative)
    codes = upper.astype(np.uint8) if sent_N is None else np.zeros(N, np.uint8)
    codes += negative.astype(np.uint8) * np.uint8(level_TL.shape[1])
    if sent_N is not None:
        codes[~sent_N] = NOT_SENT
    return level_TL, codes


def values_of_pairs(
    level_TL: np.ndarray, codes: np.ndarray, chosen: np.ndarray | None
) -> np.ndarray:
    """Return the float32 values of codes, all or, where some are marked, those at the indices.

    Raises
    ------
    WireError
        If a magnitude or code is one that no encoder writes.
    """
    steps = np.diff(level_TL, axis=1, prepend=np.float32(0))
    if steps.size and not (steps.min() >= 0 and float(level_TL.max()) <= LARGEST_LEVEL):
        raise WireError(
            f"levels are not ascending from 0 to at most {LARGEST_LEVEL}; expected magnitudes",
            "non-finite",
        )
    L = level_TL.shape[1]
    picked = codes if chosen is None else codes[chosen]
    if picked.size and int(picked.max()) >= 2 * L:
        raise WireError(f"a value is code {int(picked.max())}; expected 0 to {2 * L - 1}")
    table = np.concatenate([level_TL, -level_TL], axis=1).reshape(-1)
    stretch = (np.arange(codes.size) if chosen is None else chosen) // STRETCH
    stretch *= 2 * L
    stretch += picked
    values: np.ndarray = table[stretch]
    return values


def _one(size_T: np.ndarray, there_T: np.ndarray, nearest: bool) -> np.ndarray:
    """Return one magnitude for each stretch: the mean, or the largest for rounding at random."""
    if not nearest:
        largest: np.ndarray = size_T.max(axis=1)
        return largest
    total = size_T.sum(axis=1, dtype=np.float64)
    mean: np.ndarray = (total / np.maximum(there_T.sum(axis=1), 1)).astype(np.float32)
    return mean


def _nearest(size_T: np.ndarray, there_T: np.ndarray) -> np.ndarray:
    """Return the two means of least squared error of each stretch."""
    ordered, below, total, count = _ordered(size_T, there_T)
    number = np.arange(1, STRETCH)
    last = np.maximum(count[:, None] - number, 1)
    above = total[:, None] - below[:, :-1]
    gain = below[:, :-1] ** 2 / number + above**2 / last
    gain[number >= count[:, None]] = -1
    cut = gain.argmax(axis=1)
    rows = np.arange(len(cut))
    level_TL = np.stack(
        [below[rows, cut] / number[cut], above[rows, cut] / last[rows, cut]], axis=1
    )
    alone = count == 1  # which no split has two sides of
    level_TL[alone] = ordered[alone, :1]
    return level_TL.astype(np.float32)


def _at_random(size_T: np.ndarray, there_T: np.ndarray) -> np.ndarray:
    """Return of each stretch the lower magnitude of least expected error, and the largest.

    A value v below the lower level a costs a^2 - v^2, one above it (v - a) (b - v).
    """
    ordered, below, total, count = _ordered(size_T, there_T)
    number = np.arange(1, STRETCH + 1)
    most = ordered[np.arange(len(count)), count - 1][:, None]
    above = total[:, None] - below
    error = number * ordered**2 + (ordered + most) * above
    error -= ordered * most * (count[:, None] - number)
    error[number > count[:, None]] = np.inf
    best = error.argmin(axis=1)
    least = ordered[np.arange(len(count)), best][:, None]
    return np.concatenate([least, most], axis=1).astype(np.float32)


def _ordered(
    size_T: np.ndarray, there_T: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return magnitudes in ascending order, their running sums, the sum, and how many there are."""
    ordered = np.where(there_T, size_T, np.inf)
    ordered.sort(axis=1)
    ordered[np.isinf(ordered)] = 0
    ordered = ordered.astype(np.float64)
    below = np.cumsum(ordered, axis=1)
    return ordered, below, below[:, -1], there_T.sum(axis=1)
