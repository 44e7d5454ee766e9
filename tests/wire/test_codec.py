"""The codec as its users see it: supports, bounds, what is refused and by which name."""

from dataclasses import replace

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedllm_app.core.errors import WireError
from fedllm_app.wire.codec import (
    WireSettings,
    decode,
    dense_bytes,
    encode,
    max_bytes,
    size_of,
)
from fedllm_app.wire.header import MODES, Origin, read_header
from fedllm_app.wire.quantize import VALUE_TYPES, value_bytes


def ours(P):
    return Origin(P, "ab" * 16, "cd" * 16)


def f32(*values):
    return np.array(values, dtype=np.float32)


def write(values, positions, P, value_type="fp32", block=16, derived=False):
    rng = np.random.default_rng(0)
    return encode(
        values, positions, ours(P), value_type=value_type, block=block, derived=derived, rng=rng
    )


def mode_of(payload):
    return MODES[read_header(payload).mode]


@st.composite
def updates(draw):
    """Return (values, positions, P) with zeros among the values; from nothing to everything."""
    P = draw(st.integers(1, 600))
    chosen = draw(
        st.one_of(
            hnp.arrays(np.bool_, P),
            st.sampled_from([0.0, 0.02, 0.38, 0.98, 1.0]).map(
                lambda d: np.random.default_rng(P).random(P) < d
            ),
        )
    )
    positions = np.flatnonzero(chosen)
    codes = draw(hnp.arrays(np.int8, positions.size, elements=st.integers(-127, 127)))
    codes[::3] = 0
    codes[1::16] = 127  # most blocks then have scale 1, and int8 is exact
    return codes.astype(np.float32), positions, P


@given(updates(), st.sampled_from(VALUE_TYPES))
def test_explicit_positions_come_back_and_never_cost_more_than_dense(update, value_type):
    values, positions, P = update
    payload = write(values, positions, P, value_type)
    got = decode(payload, ours(P), expect="explicit", count=positions.size)
    at = np.arange(P) if got.positions is None else got.positions
    assert np.array_equal(at, positions)
    # The floats hold these exactly; few levels are at most one level off (test_levels.py).
    level = {"int8": 1, "int4": 127 / 7, "q4": 127, "q3": 127, "q2": 254}.get(value_type, 0)
    assert np.abs(got.values - values).max(initial=0) <= level * 1.00001
    assert payload.size == size_of(payload).total
    assert payload.size <= 64 + value_bytes(P, value_type, 16)
    assert payload.size <= max_bytes(positions.size, P, value_type, 16, explicit=True)


@given(updates(), st.sampled_from(VALUE_TYPES))
def test_derived_positions_cost_nothing(update, value_type):
    values, positions, P = update
    payload = write(values, positions, P, value_type, derived=True)
    got = decode(payload, ours(P), expect="derived", derived=positions)
    assert got.positions is positions
    assert size_of(payload).positions == 0
    assert payload.size == max_bytes(positions.size, P, value_type, 16, explicit=False)


def test_all_of_them_in_fp32_are_the_values_behind_a_header():
    values = f32(1, 0, -2)
    payload = write(values, None, 3)
    got = decode(payload, ours(3), expect="all")
    assert got.positions is None
    assert got.values.tobytes() == values.tobytes()
    assert payload.size == dense_bytes(3) == 64 + 12


def test_each_mode_is_taken_where_it_is_smallest():
    P = 800
    few = np.array([5, 700])
    assert mode_of(write(f32(1, 2), few, P)) == "rice"
    alternate = np.flatnonzero(np.random.default_rng(0).random(P) < 0.5)
    assert mode_of(write(np.ones(alternate.size, np.float32), alternate, P)) == "bitmap"
    nearly = np.delete(np.arange(P), [3, 77])
    assert mode_of(write(np.ones(P - 2, np.float32), nearly, P, "int8")) == "marked"
    assert mode_of(write(np.ones(P, np.float32), np.arange(P), P)) == "all"


@pytest.mark.parametrize("value_type", VALUE_TYPES)
@pytest.mark.parametrize("chosen", [[0, 9], [*range(0, 100, 2)], [*range(99)]])
def test_a_sent_zero_is_not_a_coordinate_not_sent(chosen, value_type):
    positions = np.array(chosen)
    payload = write(np.zeros(positions.size, np.float32), positions, 100, value_type)
    got = decode(payload, ours(100))
    assert got.positions is not None
    assert got.positions.tolist() == chosen
    assert not got.values.any()


@pytest.mark.parametrize(
    ("positions", "derived", "asked", "why"),
    [
        (None, False, {"expect": "explicit", "count": 2}, "K is 10; expected 2"),
        (None, False, {"expect": "derived"}, "mode is 'all'; expected derived"),
        ([1, 2], False, {"expect": "all"}, "expected all"),
        ([1, 2], False, {"count": 3}, "K is 2; expected 3"),
        ([1, 2], True, {"expect": "explicit"}, "mode is 'derived'"),
        ([1, 2], True, {}, "none to derive"),
        ([1, 2], True, {"derived": np.array([1, 2, 3])}, "support has 3 positions"),
        ([1, 2], False, {"value_type": "int8"}, "value type is 'fp32'; expected 'int8'"),
    ],
)
def test_a_support_that_was_not_asked_for_is_refused(positions, derived, asked, why):
    at = None if positions is None else np.array(positions)
    payload = write(np.ones(10 if at is None else at.size, np.float32), at, 10, derived=derived)
    with pytest.raises(WireError, match=why):
        decode(payload, ours(10), **asked)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"layout_hash": "00" * 16}, "layout hash is 'abab"),
        ({"fingerprint": "00" * 16}, "base fingerprint is 'cdcd"),
        ({"P": 4}, "P=3 parameters; expected 4"),
    ],
)
def test_another_model_is_foreign(other, why):
    payload = write(f32(1, 2, 3), None, 3)
    with pytest.raises(WireError, match=why) as refusal:
        decode(payload, replace(ours(3), **other))
    assert refusal.value.reason == "foreign"


@pytest.mark.parametrize(
    ("values", "positions", "P", "why"),
    [
        (f32(1), [1, 2], 8, "1 values for 2 positions"),
        (f32(1, 2), [2, 1], 8, "ascending"),
        (f32(1, 2), [2, 8], 8, "at most 7"),
        (f32(1, 2), None, 8, "expected all P=8"),
        (f32(1, np.nan), [1, 2], 8, "NaN"),
    ],
)
def test_what_no_receiver_would_take_is_not_written(values, positions, P, why):
    with pytest.raises(WireError, match=why):
        write(values, None if positions is None else np.array(positions), P)


def test_the_same_draws_give_the_same_bytes():
    values = np.random.default_rng(1).standard_normal(100).astype(np.float32)
    assert write(values, None, 100, "int8").tobytes() == write(values, None, 100, "int8").tobytes()


def test_block_must_be_a_power_of_two():
    assert WireSettings(block=1024).block == 1024
    with pytest.raises(ValidationError, match="48 is not a power of two"):
        WireSettings(block=48)
