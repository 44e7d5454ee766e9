"""Symbols as bits at the price of their probability: range asymmetric numeral systems (rANS).

Source: Duda 2013, arXiv 1311.2540. Many states take turns, one symbol each, so that a whole row of
symbols is coded by a few array operations. Everything is whole numbers: all machines write and
read the same bytes.

Shapes: N symbols, L states (lanes), W words of 16 bits.
"""

import numpy as np

from fedllm_app.core.errors import WireError

PRECISION = 12  # probabilities are whole numbers of 2^-12
TOTAL = 1 << PRECISION
_LOW = np.uint64(1 << 16)  # a state is at least this and below 2^32
_WORD, _SLOT = np.uint64(16), np.uint64(PRECISION)
_FULL = np.uint64(32 - PRECISION)
MOST_LANES, PER_LANE = 1024, 1024


def lanes_of(N: int) -> int:
    """Return L for N symbols: a power of two. A state costs some 2 bytes beside its symbols."""
    return min(MOST_LANES, 1 << max(N // PER_LANE, 1).bit_length() - 1)


def encode(frequency_N: np.ndarray, below_N: np.ndarray) -> np.ndarray:
    """Return the words of N symbols, uint16: the last state of each lane, then what they gave off.

    Parameters
    ----------
    frequency_N : how many of the `TOTAL` slots a symbol has, at least 1; uint16 of shape (N,).
    below_N : how many the symbols before it have, uint16 of shape (N,).
    """
    N = frequency_N.size
    L = lanes_of(N)
    state_L = np.full(L, _LOW)
    given: list[np.ndarray] = []
    for start in range((N - 1) // L * L, -1, -L):
        frequency = frequency_N[start : start + L].astype(np.uint64)
        state = state_L[: frequency.size]
        full = state >= frequency << _FULL
        given.append((state[full] & np.uint64(0xFFFF)).astype(np.uint16))
        state[full] >>= _WORD
        whole, rest = np.divmod(state, frequency)
        state[:] = (whole << _SLOT) + rest + below_N[start : start + L]
    ends = np.empty((L, 2), dtype=np.uint16)
    ends[:, 0], ends[:, 1] = state_L & np.uint64(0xFFFF), state_L >> _WORD
    return np.concatenate([ends.reshape(-1), *reversed(given)])


def decode(
    words_W: np.ndarray, model_N: np.ndarray, slots: np.ndarray, edges: np.ndarray
) -> tuple[np.ndarray, int]:
    """Return N symbols, uint8, and how many of the words they took; the words may be hostile.

    Parameters
    ----------
    model_N : the distribution of each symbol, an index into the tables.
    slots : the symbol of each slot, uint8 of shape (models, TOTAL).
    edges : the first slot of each symbol, at last TOTAL: uint16 of shape (models, symbols + 1).

    Raises
    ------
    WireError
        If they are not what an encoder writes for N symbols.
    """
    N = model_N.size
    L = lanes_of(N)
    if words_W.size < 2 * L:
        raise WireError(f"coded values have {words_W.size} words; expected at least {2 * L}")
    ends = words_W[: 2 * L].reshape(L, 2).astype(np.uint64)
    state_L, at = ends[:, 0] | ends[:, 1] << _WORD, 2 * L
    symbol_N = np.empty(N, dtype=np.uint8)
    if N and int(state_L.min()) < int(_LOW):
        raise WireError("a state of coded values is below 2^16; expected 2^16 to 2^32 - 1")
    for start in range(0, N, L):
        model = model_N[start : start + L]
        state = state_L[: model.size]
        slot = (state & np.uint64(TOTAL - 1)).astype(np.int64)
        symbol = slots[model, slot]
        symbol_N[start : start + L] = symbol
        below = edges[model, symbol]
        frequency = edges[model, symbol.astype(np.int64) + 1] - below
        state[:] = frequency * (state >> _SLOT) + slot.astype(np.uint64) - below
        low = np.flatnonzero(state < _LOW)
        if low.size > words_W.size - at:
            raise WireError("coded values end too early")
        state[low] = state[low] << _WORD | words_W[at : at + low.size]
        at += low.size
    if bool((state_L != _LOW).any()):
        raise WireError("coded values do not end where their states begin")
    return symbol_N, at
