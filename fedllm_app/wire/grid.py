"""Values as whole multiples of one step, each coded at the price of its probability.

Every value is rounded to the nearest multiple of a step. What is small against the step becomes
zero and costs a fraction of a bit, so there is no density and there are no positions: the step
alone decides how much is said of a coordinate. One step for all is what costs the fewest bits for
a squared error (reverse water-filling: Cover and Thomas 2006, section 10.3.3). Coordinates of one
slice of a tensor are alike, so each slice names the one of 256 fixed distributions that codes it
in the fewest bits. A multiple is read back as the mean of what was rounded to it (Lloyd 1982).

docs/wire-format.md specifies every byte.

Shapes: N values, G groups of neighbouring values, M = `MOST`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedllm_app.core.errors import WireError
from fedllm_app.core.versions import Version
from fedllm_app.wire import rans
from fedllm_app.wire.bank import MOST, SYMBOLS, bank, best_models
from fedllm_app.wire.blocks import parts
from fedllm_app.wire.slices import Slices
from fedllm_app.wire.table import LARGEST_LEVEL

BEYOND = SYMBOLS - 1  # the symbol of a multiple that has none of its own
GROUP, BLOCK = 256, 1 << 20
MOST_CODE = 1 << 30
HEAD = np.dtype([("kind", "<u4"), ("step", "<f4"), ("levels", "<f4", MOST)])
FLAT, BY_SLICE = 0, 1
FINEST = 16  # steps in the root mean square of the values: finer ones change nothing
BEYOND_BITS = 32
SPARE = 0.02
ALLOWANCE = HEAD.itemsize + 64  # bytes of a section that do not grow with its values


@dataclass(frozen=True, eq=False)
class Grid:
    """Values on a grid.

    Attributes
    ----------
    codes : which multiple each value is, int32 of shape (N,), in the order of the values.
    step : between two multiples, float32.
    levels : the values of the multiples 1 to M, float32 of shape (M,), ascending.
    """

    codes: np.ndarray
    step: np.float32
    levels: np.ndarray

    def values(self) -> np.ndarray:
        """Return float32 values of shape (N,)."""
        near = np.concatenate([-self.levels[::-1], [np.float32(0)], self.levels])
        values_N = np.empty(self.codes.size, np.float32)
        for part in parts(values_N.size):
            codes = self.codes[part]
            own = near[np.clip(codes, -MOST, MOST) + MOST]
            values_N[part] = np.where(np.abs(codes) > MOST, codes * self.step, own)
        return values_N


def most_bytes(N: int, bits: float) -> int:
    """Return the length that no section of N values on a grid of so many bits exceeds."""
    return int(N * bits / 8) + ALLOWANCE


def on_grid(values_N: np.ndarray, bits: float, slices: Slices | None) -> Grid:
    """Return values on the finest grid whose section has at most some bits for each of them.

    Parameters
    ----------
    values_N : float32 array of shape (N,), all finite.
    bits : for each value, on average; `ALLOWANCE` bytes come on top.
    slices : how the values are cut, where they are a whole vector.
    """
    step = _step_for(*_sample(values_N, slices), bits)
    codes, count, total = np.zeros(values_N.size, np.int32), np.zeros(MOST), np.zeros(MOST)
    for part in parts(values_N.size) if step else ():
        codes[part] = np.rint(values_N[part] / step)
        near = np.minimum(np.abs(codes[part]), MOST + 1)
        count += np.bincount(near, minlength=MOST + 2)[1:-1]
        total += np.bincount(near, np.abs(values_N[part]), MOST + 2)[1:-1]
    multiples = np.arange(1, MOST + 1) * np.float64(step)
    levels = np.where(count, total / np.maximum(count, 1), multiples).astype(np.float32)
    return Grid(codes, np.float32(step), levels)


def encode_grid(grid: Grid, slices: Slices | None, since: Version | None = None) -> np.ndarray:
    """Return the section of values on a grid, uint8.

    Parameters
    ----------
    slices : as in `on_grid`.
    since : what the receiver holds of the same coordinates; only the difference is written.
    """
    N = grid.codes.size
    codes = grid.codes if since is None else grid.codes - regrid(since, grid.step)
    codes = _ordered(codes, slices)
    starts = _starts(N, slices)
    head = np.zeros(1, HEAD)
    head["kind"] = FLAT if slices is None else BY_SLICE
    head["step"], head["levels"] = grid.step, grid.levels
    models, parts = [np.zeros(0, np.uint8)], []
    for own, block in _blocks(starts, N):
        symbols = _symbols(codes[block])
        model = best_models(_histogram(symbols, own, block))
        model_N = np.repeat(model, np.diff(np.append(own, block.stop)))
        edges = bank().edges
        below = edges[model_N, symbols]
        words = rans.encode(edges[model_N, symbols + 1] - below, below)
        far = codes[block][symbols == BEYOND].astype("<i4")
        models.append(model)
        parts += [words.astype("<u2").view(np.uint8), far.view(np.uint8)]
    return np.concatenate([head.view(np.uint8), *models, *parts])


def decode_grid(
    section: np.ndarray, N: int, slices: Slices | None, since: Version | None = None
) -> Grid:
    """Return the values of a section, whose bytes may be hostile.

    Parameters
    ----------
    N : how many there are.
    slices, since : as the encoder had them.

    Raises
    ------
    WireError
        If it is not what an encoder writes for N values.
    """
    if section.size < HEAD.itemsize:
        raise WireError(f"a grid has {section.size} bytes; expected at least {HEAD.itemsize}")
    head = section[: HEAD.itemsize].view(HEAD)[0]
    step, levels = np.float32(head["step"]), head["levels"].astype(np.float32)
    _check_head(int(head["kind"]), step, levels, slices)
    starts, at = _starts(N, slices), HEAD.itemsize
    if section.size - at < starts.size:
        raise WireError(f"a grid of {starts.size} groups ends too early")
    models, at = section[at : at + starts.size], at + starts.size
    codes, done = np.empty(N, np.int32), 0
    for own, block in _blocks(starts, N):
        model_N = np.repeat(models[done : done + own.size], np.diff(np.append(own, block.stop)))
        done += own.size
        words = section[at : at + (section.size - at) // 2 * 2].view("<u2")
        symbols, used = rans.decode(words, model_N, bank().slots, bank().edges)
        at += 2 * used
        codes[block] = symbols.astype(np.int32) - MOST
        far = np.flatnonzero(symbols == BEYOND)
        if section.size - at < 4 * far.size:
            raise WireError("the far multiples of a grid end too early")
        codes[block][far] = section[at : at + 4 * far.size].view("<i4")
        at += 4 * far.size
    if at != section.size:
        raise WireError(f"{section.size - at} bytes follow a grid; expected none")
    codes = codes if slices is None else slices.restore(codes)
    if since is not None:
        codes = codes + regrid(since, step)
    most = max(int(codes.max(initial=0)), -int(codes.min(initial=0)))
    if most > MOST_CODE or most * float(step) > LARGEST_LEVEL:
        raise WireError(f"a multiple of a grid is {most} steps; expected less", "non-finite")
    return Grid(codes, step, levels)


def regrid(version: Version, step: np.float32) -> np.ndarray:
    """Return the codes of a download on a grid of another step, int32: the nearest multiples."""
    if not step:
        return np.zeros_like(version.codes)
    factor = np.float64(version.step) / np.float64(step)
    return np.clip(np.rint(version.codes * factor), -MOST_CODE, MOST_CODE).astype(np.int32)


def _check_head(kind: int, step: np.float32, levels: np.ndarray, slices: Slices | None) -> None:
    if kind != (FLAT if slices is None else BY_SLICE):
        raise WireError(f"a grid is of kind {kind}; this receiver cuts its values otherwise")
    rising = np.diff(levels, prepend=np.float32(0))
    if not (0 <= step <= LARGEST_LEVEL and rising.min() >= 0 and levels[-1] <= LARGEST_LEVEL):
        raise WireError("step or levels of a grid are not ascending and finite", "non-finite")


def _sample(values_N: np.ndarray, slices: Slices | None) -> tuple[np.ndarray, np.ndarray]:
    """Return values in groups, and the edges of the groups: of very many groups some say enough."""
    ordered_N = _ordered(values_N, slices)
    edges = np.append(_starts(values_N.size, slices), values_N.size)
    if values_N.size <= BLOCK:
        return ordered_N, edges
    chosen = np.arange(0, edges.size - 1, -(-values_N.size // BLOCK))
    spans = [ordered_N[edges[g] : edges[g + 1]] for g in chosen]
    return np.concatenate(spans), np.append(0, np.cumsum([span.size for span in spans]))


def _step_for(values_N: np.ndarray, edges: np.ndarray, bits: float) -> float:
    """Return the step, a power of the root of 2; 0 where all values are zero."""
    size_N = np.abs(values_N).astype(np.float64)
    mean = float(np.dot(size_N, size_N)) / max(size_N.size, 1)
    if not mean:
        return float(size_N.max(initial=0))
    # The states of rANS have a share of it, and what a sample leaves out.
    budget = (bits - SPARE * bits) * size_N.size
    # Between the finest of use and one that leaves nothing but zeros.
    low = int(np.floor(np.log2(mean / FINEST**2)))
    high = max(low, int(np.ceil(2 * np.log2(size_N.max()))) + 3)
    while low < high:
        middle = (low + high) // 2
        if _cost(values_N, edges, 2.0 ** (middle / 2)) <= budget:
            high = middle
        else:
            low = middle + 1
    return float(np.float32(2.0 ** (low / 2)))


def _cost(values_N: np.ndarray, edges: np.ndarray, step: float) -> float:
    """Return about how many bits the values take on a grid of this step."""
    scaled = np.clip(np.rint(values_N / step), -MOST - 1, MOST + 1)
    symbols = _symbols(scaled.astype(np.int32))
    counts = _histogram(symbols, edges[:-1], slice(0, values_N.size))
    bits = float((counts @ bank().bits.T).min(1).sum())
    return bits + BEYOND_BITS * float(counts[:, BEYOND].sum()) + 8.0 * edges[:-1].size


def _symbols(codes: np.ndarray) -> np.ndarray:
    """Return the symbol of each code, int64."""
    symbols: np.ndarray = codes.astype(np.int64) + MOST
    symbols[np.abs(codes) > MOST] = BEYOND
    return symbols


def _histogram(symbols: np.ndarray, starts: np.ndarray, block: slice) -> np.ndarray:
    """Return how often each group has each symbol, float64 of shape (G, SYMBOLS)."""
    group = np.repeat(np.arange(starts.size), np.diff(np.append(starts, block.stop)))
    counts = np.bincount(group * SYMBOLS + symbols, minlength=starts.size * SYMBOLS)
    return counts.reshape(-1, SYMBOLS).astype(np.float64)


def _ordered(vector_N: np.ndarray, slices: Slices | None) -> np.ndarray:
    return vector_N if slices is None else slices.reorder(vector_N)


def _starts(N: int, slices: Slices | None) -> np.ndarray:
    """Return where each group begins: slices, short ones together, or stretches of `GROUP`."""
    if slices is None:
        return np.arange(0, N, GROUP)
    starts = slices.starts[slices.lengths > 0]
    return starts[np.diff(starts // GROUP, prepend=-1) > 0]


def _blocks(starts: np.ndarray, N: int) -> Iterator[tuple[np.ndarray, slice]]:
    """Yield groups by their starts, as many as have some `BLOCK` values together."""
    first = np.flatnonzero(np.diff(starts // BLOCK, prepend=-1) > 0)
    for begin, end in zip(first, np.append(first[1:], starts.size), strict=True):
        stop = int(starts[end]) if end < starts.size else N
        yield starts[begin:end], slice(int(starts[begin]), stop)
