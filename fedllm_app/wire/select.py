"""Choose which coordinates travel (FLoSS, Raje 2024, Algorithm 1: the top fraction of |P|).

One threshold over the whole flat vector; `wire/tiles.py` has one for each block of a matrix. The
choice is the same on every machine: magnitudes are compared as the integers their bits spell, and
of equal ones the lower position is kept.

Shapes: P flat trainable parameters, W candidate positions (W <= P), K kept coordinates.
"""

import math

import numpy as np

from fedllm_app.core.errors import ConfigError, WireError

_MAGNITUDE = np.uint32(0x7FFFFFFF)
_INFINITY = 0x7F800000


def top_count(W: int, density: float) -> int:
    """Return K, the number of coordinates that `density` keeps of W.

    density * W rounded half up, at least 1 and at most W.

    Raises
    ------
    ConfigError
        If density is outside (0, 1].
    """
    if not 0.0 < density <= 1.0:
        raise ConfigError(
            f"density is {density!r}; expected a fraction in (0, 1]. 0.25 keeps a quarter"
        )
    return min(W, max(1, math.floor(density * W + 0.5)))


def top_positions(
    values_P: np.ndarray,
    density: float,
    within: np.ndarray | None = None,
    always: np.ndarray | None = None,
) -> np.ndarray:
    """Return the positions of the `density` fraction of largest magnitude.

    Parameters
    ----------
    values_P : float32 array of shape (P,), all finite.
    density : fraction of the candidates that is kept, in (0, 1]; K is `top_count(W, density)`.
    within : ascending int64 positions of shape (W,) to choose from; None for all P.
    always : ascending int64 positions that are kept whatever their values; they are no candidates.

    Returns
    -------
    int64 array, ascending: K positions and those of `always`. Ties go to the lower position.

    Raises
    ------
    ConfigError
        If density is outside (0, 1].
    WireError
        If a value is NaN or infinite.
    """
    candidates = without(values_P.size, within, always)
    W = values_P.size if candidates is None else candidates.size
    top = largest(values_P, top_count(W, density), candidates)
    return top if always is None else np.union1d(top, always)


def largest(values_P: np.ndarray, K: int, within: np.ndarray | None = None) -> np.ndarray:
    """Return the positions of the K largest magnitudes, int64, ascending; see `top_positions`."""
    top = _top_of(magnitudes(values_P if within is None else values_P[within]), K)
    return top if within is None else np.asarray(within, dtype=np.int64)[top]


def magnitudes(values_W: np.ndarray) -> np.ndarray:
    """Return the magnitudes of float32 values as the integers their bits spell, uint32.

    Raises
    ------
    WireError
        If a value is NaN or infinite.
    """
    bits_W = np.ascontiguousarray(values_W, dtype=np.float32).view(np.uint32) & _MAGNITUDE
    if bits_W.size and int(bits_W.max()) >= _INFINITY:
        count = int(np.count_nonzero(bits_W >= _INFINITY))
        raise WireError(
            f"{count} of {bits_W.size} values are NaN or infinite; a selection needs finite "
            "values. A lower learning rate may help",
            "non-finite",
        )
    return bits_W


def without(P: int, within: np.ndarray | None, taken: np.ndarray | None) -> np.ndarray | None:
    """Return the positions of `within` (None: all P) that are not `taken`; None is all P."""
    if taken is None or taken.size == 0:
        return within
    free_P = np.ones(P, dtype=bool)
    free_P[taken] = False
    return np.flatnonzero(free_P) if within is None else within[free_P[within]]


def _top_of(bits_W: np.ndarray, K: int) -> np.ndarray:
    """Return the ascending indices of the K largest; of equal ones the lower index."""
    W = bits_W.size
    if K >= W:
        return np.arange(W, dtype=np.int64)
    threshold = np.partition(bits_W, W - K)[W - K]
    top = np.flatnonzero(bits_W >= threshold)
    surplus = top.size - K
    if surplus:
        ties = np.flatnonzero(bits_W[top] == threshold)
        top = np.delete(top, ties[-surplus:])
    return top.astype(np.int64, copy=False)
