"""Top-k by block: the largest of every square, as a plain loop over squares finds them."""

import tracemalloc

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedllm_app.core.errors import ConfigError, WireError
from fedllm_app.core.layout import ParamLayout
from fedllm_app.wire.select import top_count, top_positions
from fedllm_app.wire.tiles import block_count, block_positions

# Whole squares, squares cut at both edges, one row that is left over, a run and a bias, three axes.
LAYOUT = ParamLayout(
    ("a", "b", "c", "d", "e", "f"), ((4, 8), (7, 9), (5, 2), (20,), (3,), (3, 2, 5))
)
P, SIDE = LAYOUT.size, 4


def by_hand(values_P, density, side, free_P):
    kept = []
    for shape, start, size in zip(LAYOUT.shapes, LAYOUT.offsets, LAYOUT.sizes, strict=True):
        number = np.arange(size) + start
        if len(shape) == 1:
            blocks = np.split(number, range(side * side, size, side * side))
        else:
            number = number.reshape(shape[0], -1)
            blocks = [
                number[r : r + side, c : c + side].ravel()
                for r in range(0, number.shape[0], side)
                for c in range(0, number.shape[1], side)
            ]
        for block in blocks:
            own = block[free_P[block]]
            order = np.argsort(-np.abs(values_P[own]), kind="stable")
            kept += own[order[: top_count(own.size, density) if own.size else 0]].tolist()
    return sorted(kept)


few_values = hnp.arrays(np.float32, P, elements=st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 5.0]))


@given(few_values, st.floats(0.01, 1.0), st.sampled_from([0.0, 0.3, 0.9]), st.integers(0, 9))
def test_it_is_the_plain_loop_ties_and_candidates_too(values, density, taken, seed):
    free = np.random.default_rng(seed).random(P) >= taken
    some = None if taken == 0 else free
    found = block_positions(values, density, SIDE, LAYOUT, some)
    assert found.tolist() == by_hand(values, density, SIDE, free)
    assert found.size == block_count(density, SIDE, LAYOUT, some)


def test_a_block_that_holds_all_of_a_tensor_is_the_top_of_that_tensor():
    layout = ParamLayout(("w",), ((8, 8),))
    values = np.random.default_rng(0).standard_normal(64, dtype=np.float32)
    same = top_positions(values, 0.25)
    assert block_positions(values, 0.25, 8, layout).tolist() == same.tolist()


def test_every_tensor_has_its_share_whatever_the_others_do():
    layout = ParamLayout(("loud", "quiet"), ((64, 128), (64, 64)))
    values = np.random.default_rng(0).standard_normal(layout.size, dtype=np.float32)
    values[: 64 * 128] *= 1000
    counts = np.bincount(block_positions(values, 1 / 64, 64, layout) >= 64 * 128)
    assert counts.tolist() == [128, 64]
    assert (top_positions(values, 1 / 64) < 64 * 128).all()


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="density is 0"):
        block_positions(np.zeros(P, np.float32), 0.0, SIDE, LAYOUT)
    values = np.zeros(P, np.float32)
    values[3] = np.nan
    with pytest.raises(WireError, match="NaN or infinite"):
        block_positions(values, 0.5, SIDE, LAYOUT)


def test_it_takes_memory_for_one_row_of_blocks():
    layout = ParamLayout(("w", "v"), ((4096, 512), (1 << 21,)))
    values = np.random.default_rng(0).standard_normal(layout.size, dtype=np.float32)
    tracemalloc.start()
    found = block_positions(values, 1 / 64, 64, layout)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.size == layout.size // 64
    assert peak < 16 * found.size + 16 * (1 << 20)  # positions twice; a run of a million
    assert peak < values.nbytes * 1.5
