"""The mean: exact, the same in any order, and with two meanings of "how many"."""

from fractions import Fraction

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedllm_app.core.errors import WireError
from fedllm_app.server.aggregate import Mean


def f32(*values):
    return np.array(values, dtype=np.float32)


@st.composite
def replies(draw, P=12):
    """Return replies of (positions or None, values), magnitudes from 2^-60 to 2^16."""
    out = []
    for _ in range(draw(st.integers(1, 6))):
        chosen = np.flatnonzero(draw(hnp.arrays(np.bool_, P)))
        dense = draw(st.booleans())
        K = P if dense else chosen.size
        values = draw(
            hnp.arrays(np.float32, K, elements=st.floats(-65536, 65536, width=32))
        ) * np.float32(2.0 ** draw(st.integers(-40, 0)))
        out.append((None if dense else chosen, values))
    return out


@given(replies(), st.randoms(use_true_random=False), st.sampled_from(["cohort", "senders"]))
def test_any_order_gives_the_same_bits(items, random, kind):
    def total(order):
        mean = Mean(12, cohort=6, mean=kind)
        for positions, values in order:
            mean.fold(positions, values)
        return mean.mean().tobytes()

    shuffled = list(items)
    random.shuffle(shuffled)
    assert total(items) == total(shuffled)


@given(replies())
def test_against_exact_fractions(items):
    mean = Mean(12, cohort=6)
    exact = [Fraction(0)] * 12
    for positions, values in items:
        mean.fold(positions, values)
        for p, v in zip(range(12) if positions is None else positions, values, strict=True):
            exact[p] += Fraction(float(v))
    for got, total in zip(mean.mean(), exact, strict=True):
        want = total / len(items)
        # Half a step per reply, and two roundings to float32.
        assert abs(Fraction(float(got)) - want) <= Fraction(1, 2**45) + abs(want) / 2**23


def test_cohort_counts_everybody_and_senders_only_those_who_sent():
    replies = [(np.array([0, 1]), f32(6, 3)), (np.array([0]), f32(0)), (None, f32(3, 3, 3, 0))]
    results = {}
    for kind in ("cohort", "senders"):
        mean = Mean(4, cohort=3, mean=kind)
        for positions, values in replies:
            mean.fold(positions, values)
        results[kind] = mean.mean().tolist()
    assert results["cohort"] == [3, 2, 1, 0]
    # Coordinate 0: the zero that the second reply sent counts as sent.
    assert results["senders"] == [3, 3, 3, 0]


def test_what_nobody_sent_is_zero():
    mean = Mean(3, cohort=2, mean="senders")
    mean.fold(np.array([1]), f32(5))
    assert mean.mean().tolist() == [0, 5, 0]
    assert mean.mean().dtype == np.float32


def test_cancellation_is_exact():
    # In float32 the 2^-20 would be lost beside 65536.
    mean = Mean(1, cohort=4)
    for value in (65536.0, 2.0**-20, -65536.0, 2.0**-20):
        mean.fold(None, f32(value))
    assert mean.mean().tolist() == [2.0**-21]


def test_the_limit_holds_for_a_whole_cohort_of_largest_replies():
    limit = np.float32(2**19 / 4)
    below = np.nextafter(limit, np.float32(0))
    mean = Mean(1, cohort=4)
    for _ in range(4):
        mean.fold(None, f32(-below))
    assert mean.mean().tolist() == [-below]
    with pytest.raises(WireError, match="cohort of 4"):
        mean.fold(None, f32(0))


@pytest.mark.parametrize(
    ("positions", "values", "why"),
    [
        (None, f32(1, 2**18), r"magnitude 262144.0; expected below 262144.0"),
        (None, f32(1, -(2**18)), "magnitude"),
        (None, f32(1, np.nan), "NaN"),
        (None, f32(1, np.inf), "NaN or infinite"),
        (None, f32(1), r"expected float32 of shape \(2,\)"),
        (None, np.ones(2), "float64"),
        (np.array([0]), f32(1, 2), r"shape \(1,\)"),
        (np.array([1, 1]), f32(1, 2), "ascending"),
        (np.array([1, 2]), f32(1, 2), "leave"),
        (np.array([-1, 0]), f32(1, 2), "leave"),
    ],
)
def test_what_is_refused_leaves_the_sum_as_it_was(positions, values, why):
    mean = Mean(2, cohort=2, mean="senders")
    mean.fold(None, f32(1, 2))
    with pytest.raises(WireError, match=why):
        mean.fold(positions, values)
    assert mean.n == 1
    assert mean.mean().tolist() == [1, 2]


def test_an_empty_reply_counts_in_the_cohort():
    mean = Mean(1, cohort=2)
    mean.fold(None, f32(4))
    mean.fold(np.array([], dtype=np.int64), f32())
    assert mean.mean().tolist() == [2]


def test_no_reply_has_no_mean():
    with pytest.raises(WireError, match=r"round\.min-replies"):
        Mean(2, cohort=2).mean()
