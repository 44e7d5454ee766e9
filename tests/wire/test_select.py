"""Selection: the largest magnitudes, ties to the lower position, the same everywhere."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedllm_app.core.errors import ConfigError, WireError
from fedllm_app.wire.select import top_count, top_positions


def f32(*values):
    return np.array(values, dtype=np.float32)


def test_kept_rounds_half_up_and_keeps_at_least_one():
    assert top_count(10, 0.25) == 3  # 2.5
    assert top_count(10, 0.24) == 2
    assert top_count(10, 0.001) == 1
    assert top_count(10, 1.0) == 10
    assert top_count(2_400_000, 1 / 16) == 150_000


@pytest.mark.parametrize("density", [0.0, -0.5, 1.5, float("nan")])
def test_density_outside_its_range_is_named(density):
    with pytest.raises(ConfigError, match=f"density is {density}"):
        top_count(10, density)


def test_magnitude_decides_and_order_ascends():
    assert top_positions(f32(1, -5, 0, 3), 0.5).tolist() == [1, 3]


def test_ties_go_to_the_lower_position():
    assert top_positions(f32(2, 9, -2, 2, 2), 0.6).tolist() == [0, 1, 2]
    assert top_positions(np.zeros(8, np.float32), 0.25).tolist() == [0, 1]
    assert top_positions(f32(-0.0, 0.0), 0.5).tolist() == [0]


def test_density_one_keeps_all():
    assert top_positions(f32(0, 0, 1), 1.0).tolist() == [0, 1, 2]


def test_within_chooses_among_its_positions_and_counts_them():
    values = f32(9, 1, 8, 3, 7, 2)
    assert top_positions(values, 0.5, np.array([1, 3, 4, 5])).tolist() == [3, 4]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_is_refused(bad):
    with pytest.raises(WireError, match="1 of 3 values") as refusal:
        top_positions(f32(1, bad, 2), 0.5)
    assert refusal.value.reason == "non-finite"


@given(
    hnp.arrays(np.float32, st.integers(1, 60), elements=st.sampled_from(f32(0, -0.0, 1, -1, 2))),
    st.floats(0.01, 1.0),
)
def test_equals_a_stable_sort(values, density):
    order = np.argsort(-np.abs(values), kind="stable")
    expected = np.sort(order[: top_count(len(values), density)])
    assert top_positions(values, density).tolist() == expected.tolist()
