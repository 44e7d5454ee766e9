"""Few levels: where they lie, that rounding is unbiased, and what a hostile section may not say."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedllm_app.core.errors import WireError
from fedllm_app.wire import levels
from fedllm_app.wire.quantize import pack_marked, pack_values, value_bytes
from fedllm_app.wire.table import table_for
from fedllm_app.wire.unpack import Marked, Values

FEW = ("int8", "int4", "q4", "q3")


def f32(*values):
    return np.array(values, dtype=np.float32)


def there_and_back(values, value_type, block=16, seed=0):
    out = np.empty(value_bytes(values.size, value_type, block), dtype=np.uint8)
    pack_values(values, value_type, block, np.random.default_rng(seed), out)
    return Values(out, values.size, value_type, block).whole()


@given(st.data(), st.sampled_from([8, 4, 3, 2]), st.integers(0, 50))
def test_codes_come_back_and_take_no_more_than_their_bits(data, bits, N):
    codes = data.draw(hnp.arrays(np.uint8, N, elements=st.integers(0, (1 << bits) - 1)))
    packed = levels.pack_codes(codes, bits)
    assert packed.size == -(-N * bits // 8)
    assert levels.unpack_codes(packed, N, bits).tolist() == codes.tolist()


def test_codes_by_hand():
    assert levels.pack_codes(np.array([1, 2, 15], np.uint8), 4).tolist() == [0x21, 0x0F]
    # 001, 010, 111 from the lowest bit on: 100 010 111 is 0b11010001 and 1.
    assert levels.pack_codes(np.array([1, 2, 3, 0, 1], np.uint8), 2).tolist() == [0b00111001, 0b01]
    assert levels.pack_codes(np.array([1, 2, 7], np.uint8), 3).tolist() == [0b11010001, 0b1]


def test_set_padding_is_refused():
    for bits, data in ((4, [0x21, 0x1F]), (3, [0b11010001, 0b11]), (2, [0b01000000])):
        with pytest.raises(WireError, match="padding"):
            levels.unpack_codes(np.array(data, np.uint8), 3, bits)


@pytest.mark.parametrize(("value_type", "most"), [("int8", 127), ("int4", 7)])
def test_linear_keeps_whole_multiples_of_the_scale_whatever_is_drawn(value_type, most):
    values = f32(*(0.25 * c for c in range(-most, most + 1)))
    for seed in range(5):
        assert np.array_equal(there_and_back(values, value_type, 256, seed), values)


@pytest.mark.parametrize(("value_type", "L"), [("q4", 8), ("q3", 4)])
def test_a_table_keeps_geometric_magnitudes_whatever_is_drawn(value_type, L):
    values = f32(*(2.0**c for c in range(-L // 2, L // 2))) * f32(1, -1, 1, 1, -1, 1, -1, 1)[:L]
    for seed in range(5):
        assert np.array_equal(there_and_back(values, value_type, 16, seed), values)


def test_a_table_holds_the_smallest_and_the_largest_and_zero_where_there_is_one():
    table = table_for(f32(3, 0, 100, 7, 0.01), 8)
    assert (table[0], table[-1]) == (0, 100)
    assert (np.diff(table) > 0).all()
    assert table_for(f32(5, 5, 5), 4).tolist() == [5, 5, 5, 5]
    assert table_for(f32(0, 0), 4).tolist() == [0, 0, 0, 0]
    assert table_for(f32(), 4).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("value_type", FEW)
def test_rounding_is_unbiased_over_draws(value_type):
    values = f32(127, 0.25, -0.25, 63.5, -126.9, 3, -17, 0)
    draws = np.array([there_and_back(values, value_type, 16, seed) for seed in range(4000)])
    # 5 standard errors of what was seen, and float32 itself.
    allowed = 5 * draws.std(axis=0) / 4000**0.5 + 1e-4
    assert (np.abs(draws.mean(axis=0, dtype=np.float64) - values) <= allowed).all()


@pytest.mark.parametrize("value_type", FEW)
@given(values=hnp.arrays(np.float32, st.integers(0, 70), elements=st.floats(-1e9, 1e9, width=32)))
def test_signs_stay_and_magnitudes_stay_within_the_values(value_type, values):
    back = there_and_back(values, value_type)
    assert back.size == values.size
    assert (back * values >= 0).all()
    assert np.abs(back).max(initial=0) <= np.abs(values).max(initial=0) * 1.00001


def test_a_table_errs_less_than_scales_on_what_a_top_k_leaves():
    # Many small, few large: the largest sixteenth of normal times log-normal.
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=40_000) * np.exp(0.8 * rng.normal(size=40_000))
    values = drawn[np.abs(drawn) > np.quantile(np.abs(drawn), 15 / 16)].astype(np.float32)
    error = {
        kind: float(np.square(there_and_back(values, kind, 256) - values).mean())
        for kind in ("int4", "q4")
    }
    assert error["q4"] < error["int4"] / 2


def section(value_type, values=(1, 2), block=16):
    values = f32(*values)
    out = np.empty(value_bytes(values.size, value_type, block), dtype=np.uint8)
    pack_values(values, value_type, block, np.random.default_rng(0), out)
    return out


@pytest.mark.parametrize("value_type", ["q4", "q3"])
@pytest.mark.parametrize(
    "bad", [[-1, 1, 2], [2, 1, 3], [0, 1, np.inf], [np.nan, 1, 2], [0, np.nan, 2]]
)
def test_levels_that_cannot_be_are_refused(value_type, bad):
    out, L = section(value_type), levels.levels_of(value_type)
    out[: 4 * L] = np.array(bad[:1] * (L - 3) + bad, "<f4").view(np.uint8)
    with pytest.raises(WireError, match="levels are not ascending"):
        Values(out, 2, value_type, 16).whole()


@pytest.mark.parametrize(("value_type", "code"), [("q4", 15), ("q3", 7)])
def test_a_code_without_a_level_is_refused(value_type, code):
    # With all 2 L codes in use there is none; a marked section has one that means nothing.
    out = np.empty(value_bytes(3, value_type, 16, True), dtype=np.uint8)
    pack_marked(f32(1, 2), np.array([0, 2]), 3, value_type, 16, np.random.default_rng(0), out)
    assert Marked(out, 3, 2, value_type, 16).marks.positions().tolist() == [0, 2]
    codes = np.array([1, code - 1, code], np.uint8)
    packed = levels.pack_codes(codes, levels.BITS[value_type])
    out[-packed.size :] = packed
    with pytest.raises(WireError, match=f"a value is code {code}; expected 0 to {code - 2}"):
        Marked(out, 3, 2, value_type, 16).whole()


@pytest.mark.parametrize("value_type", ["int8", "int4"])
@pytest.mark.parametrize("scale", [-1.0, np.nan, np.inf, 1e38])
def test_a_scale_that_cannot_be_is_refused(value_type, scale):
    out = section(value_type)
    out[:4] = np.array([scale], "<f4").view(np.uint8)
    with pytest.raises(WireError, match="scale"):
        Values(out, 2, value_type, 16).whole()


def test_what_is_not_sent_does_not_move_the_levels():
    out = np.empty(value_bytes(4, "q3", 16, True), dtype=np.uint8)
    pack_marked(f32(5, 7), np.array([0, 2]), 4, "q3", 16, np.random.default_rng(0), out)
    table = out[:12].view("<f4")
    assert (table[0], table[-1]) == (5, 7)
    assert levels.unpack_codes(out[12:], 4, 3)[[1, 3]].tolist() == [6, 6]
