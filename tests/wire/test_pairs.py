"""q2: the pair of each stretch is the best one, and rounding at random is right on average."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedllm_app.core.errors import WireError
from fedllm_app.core.layout import ParamLayout
from fedllm_app.wire.codec import decode, dense_bytes, encode
from fedllm_app.wire.pairs import STRETCH
from fedllm_app.wire.quantize import pack_marked, pack_values, value_bytes
from fedllm_app.wire.slices import origin_of
from fedllm_app.wire.tiles import block_positions
from fedllm_app.wire.unpack import Marked, Values


def f32(*values):
    return np.array(values, dtype=np.float32)


def packed(values, seed=None):
    out = np.empty(value_bytes(values.size, "q2", 256), dtype=np.uint8)
    pack_values(values, "q2", 256, None if seed is None else np.random.default_rng(seed), out)
    return out


def there_and_back(values, seed=None):
    return Values(packed(values, seed), values.size, "q2", 256).whole()


def squares(difference):
    return float(np.square(difference, dtype=np.float64).sum())


few = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1000, 1000, width=16))


def test_two_bits_for_a_value_and_a_pair_for_every_1024():
    assert value_bytes(1024, "q2", 256) == 8 + 256
    assert value_bytes(1025, "q2", 256) == 16 + 257
    assert value_bytes(1025, "q2", 256, marked=True) == 8 + 257
    assert value_bytes(0, "q2", 256) == 0


@given(few)
def test_to_the_nearest_no_other_pair_errs_less(values):
    """Every pair that a split of the ordered magnitudes gives, by hand."""
    ordered = np.sort(np.abs(values)).astype(np.float64)
    best = min(
        squares(ordered[:cut] - ordered[:cut].mean())
        + (squares(ordered[cut:] - ordered[cut:].mean()) if cut < ordered.size else 0)
        for cut in range(1, ordered.size + 1)
    )
    back = there_and_back(values)
    assert squares(back - values) <= best * 1.0001 + 1e-6 * ordered[-1] ** 2
    assert (back * values >= 0).all()


def test_every_stretch_has_a_pair_of_its_own():
    # Two magnitudes in each of three stretches, powers of ten apart: nothing is lost.
    sign = np.where(np.random.default_rng(0).random(2 * STRETCH + 7) < 0.5, -1, 1)
    size = np.repeat([1e-4, 1, 1e4], STRETCH)[: sign.size] * np.where(sign[::-1] > 0, 3, 1)
    values = (sign * size).astype(np.float32)
    for seed in (None, 0, 1):
        np.testing.assert_allclose(there_and_back(values, seed), values, rtol=1e-6)
    whole = Values(packed(values), values.size, "q2", 256)
    assert whole.between(STRETCH - 3, STRETCH + 5).tolist() == whole.whole()[1021:1029].tolist()


def test_at_random_the_mean_over_draws_is_the_value_below_the_lower_level_too():
    values = f32(100, -99, 98, 10, -9, 8, 7, -5, 1, 0, 0.25)
    table = packed(values, 0)[:8].view("<f4")
    assert 5 < table[0] < 98  # so that some values lie below
    draws = np.array([there_and_back(values, seed) for seed in range(6000)])
    allowed = 5 * draws.std(axis=0) / 6000**0.5 + 1e-4
    assert (np.abs(draws.mean(axis=0, dtype=np.float64) - values) <= allowed).all()


@settings(max_examples=30)
@given(few)
def test_at_random_the_error_is_what_the_pair_was_chosen_for(values):
    size = np.abs(values).astype(np.float64)
    most = size.max()

    def expected(low):
        below = size <= low
        above = (size[~below] - low) * (most - size[~below])
        return float((low * low - size[below] ** 2).sum() + above.sum())

    best = min(expected(low) for low in size)
    seen = np.mean([squares(there_and_back(values, seed) - values) for seed in range(200)])
    # Of the mean over 200 draws: the squares of a few values far apart scatter.
    assert seen <= best * 2 + 1e-3 * most**2
    assert np.abs(there_and_back(values, 0)).max() <= np.float32(most)


def test_where_some_are_marked_one_magnitude_is_left():
    values, at = f32(4, -2, 1), np.array([0, 2, 5])
    found = []
    for rng in (None, *map(np.random.default_rng, range(3000))):
        out = np.empty(value_bytes(6, "q2", 16, True), dtype=np.uint8)
        pack_marked(values, at, 6, "q2", 16, rng, out)
        got = Marked(out, 6, 3, "q2", 16)
        assert got.marks.positions().tolist() == at.tolist()
        found.append(got.whole())
    np.testing.assert_allclose(found[0], f32(7, -7, 7) / 3)  # the mean magnitude, and the sign
    assert np.unique(np.abs(found[1:])).tolist() == [4]
    assert np.abs(np.mean(found[1:], axis=0) - values).max() < 0.4


@pytest.mark.parametrize("bad", [[-1, 1], [2, 1], [0, np.inf], [np.nan, 1], [1, np.nan]])
def test_a_pair_that_cannot_be_is_refused_in_every_stretch(bad):
    values = np.ones(STRETCH + 5, np.float32)
    for at in (0, 8):
        out = packed(values)
        out[at : at + 8] = np.array(bad, "<f4").view(np.uint8)
        with pytest.raises(WireError, match="levels are not ascending"):
            Values(out, values.size, "q2", 256).whole()


def test_a_code_without_a_magnitude_is_refused():
    out = np.empty(value_bytes(4, "q2", 16, True), dtype=np.uint8)
    pack_marked(f32(1, 1), np.array([0, 2]), 4, "q2", 16, None, out)
    out[-1] = 0b10_11_10_00
    with pytest.raises(WireError, match="a value is code 3; expected 0 to 1"):
        Marked(out, 4, 2, "q2", 16).whole()


def test_a_sixty_fourth_of_each_block_is_210_times_less_than_dense_wherever_it_lies():
    layout = ParamLayout(("w", "norm"), ((2048, 512), (512,)))
    change = np.random.default_rng(0).standard_normal(layout.size, dtype=np.float32)
    at = block_positions(change, 1 / 64, 64, layout)
    origin = origin_of(layout, "cd" * 16)
    payload = encode(change[at], at, origin, value_type="q2", block=256)
    assert dense_bytes(layout.size) / payload.size > 210
    back = decode(payload, origin)
    assert back.positions.tolist() == at.tolist()
    assert squares(back.values - change[at]) < 0.01 * squares(change[at])
