"""The 256 distributions that a group of multiples on a grid may be coded by.

A distribution has two numbers: the share of zeros, and the factor from one magnitude to the next.
All is made of whole numbers, so that every machine has the same tables.

Shapes: B distributions, M = `MOST`.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from fedllm_app.wire.rans import TOTAL

MOST = 15  # the largest multiple with a symbol of its own
SYMBOLS = 2 * MOST + 2  # -M to M, and one for all that lie beyond
# In 1/64: the share of zeros, and the factor from one magnitude to the next.
ZEROS = (2, 6, 10, 14, 19, 24, 29, 34, 39, 44, 48, 52, 56, 59, 62, 64)
FACTORS = (1, 3, 5, 8, 11, 14, 18, 22, 26, 31, 36, 41, 46, 51, 56, 61)
PARTS = 64


@dataclass(frozen=True, eq=False)
class Bank:
    """All distributions.

    Attributes
    ----------
    edges : the first slot of each symbol and, at last, `TOTAL`: uint16 of shape (B, SYMBOLS + 1).
    slots : the symbol of each slot, uint8 of shape (B, TOTAL).
    bits : what each symbol costs, float64 of shape (B, SYMBOLS).
    """

    edges: np.ndarray
    slots: np.ndarray
    bits: np.ndarray


@cache
def bank() -> Bank:
    """Return the distributions."""
    counts = np.array([_counts(zero, factor) for zero in ZEROS for factor in FACTORS])
    edges = np.zeros((counts.shape[0], SYMBOLS + 1), np.uint16)
    edges[:, 1:] = np.cumsum(counts, axis=1)
    symbols = np.tile(np.arange(SYMBOLS, dtype=np.uint8), counts.shape[0])
    slots = np.repeat(symbols, counts.reshape(-1)).reshape(-1, TOTAL)
    return Bank(edges, slots, -np.log2(counts / TOTAL))


def best_models(counts: np.ndarray) -> np.ndarray:
    """Return for each group the distribution of the fewest bits, uint8 of shape (G,).

    Parameters
    ----------
    counts : how often each group has each symbol, float64 of shape (G, SYMBOLS).
    """
    best: np.ndarray = np.argmin(counts @ bank().bits.T, axis=1).astype(np.uint8)
    return best


def _counts(zero: int, factor: int) -> list[int]:
    """Return the slots of each symbol, at least one each, `TOTAL` together."""
    free = TOTAL - SYMBOLS
    middle = free * zero // PARTS
    # Magnitude k has (1 - f) f^(k - 1) of the rest, half of it on either side.
    side = (free - middle) * (PARTS - factor)
    half = [side * factor ** (k - 1) // (2 * PARTS**k) for k in range(1, MOST + 1)]
    counts = [1 + n for n in (*reversed(half), middle, *half, 0)]
    counts[MOST] += TOTAL - sum(counts)  # what rounding down left
    return counts
