"""The mean: exact, the same in any order, and with two meanings of "how many"."""

from fractions import Fraction

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedllm_app.core.errors import ConfigError, WireError
from fedllm_app.server.aggregate import MOST_WEIGHT, WEIGHTS, Mean, whole_weights
from fedllm_app.wire import blocks


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


@st.composite
def weighted(draw):
    """Return replies with weights, and what the weights sum to at most."""
    items = [(*reply, draw(st.integers(1, 6))) for reply in draw(replies())]
    return items, sum(weight for *_, weight in items) + draw(st.integers(0, 3))


@given(weighted(), st.sampled_from(["cohort", "senders"]), st.sampled_from([1, 5, 1 << 16]))
def test_weights_against_exact_fractions(case, kind, size):
    items, most = case
    mean = Mean(12, cohort=6, mean=kind, most_weight=most)
    exact, sent = [Fraction(0)] * 12, [0] * 12
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", size)
        for positions, values, weight in items:
            # Up to 36 + 3 in weights: 2^16 may be too large.
            values = values / np.float32(8)
            mean.fold(positions, values, weight)
            for p, v in zip(range(12) if positions is None else positions, values, strict=True):
                exact[p] += weight * Fraction(float(v))
                sent[p] += weight
        got_P = mean.mean()
    for got, total, senders in zip(got_P, exact, sent, strict=True):
        want = total / (mean.weight if kind == "cohort" else max(senders, 1))
        # Half a step per reply times its weight, and two roundings to float32.
        assert abs(Fraction(float(got)) - want) <= Fraction(1, 2**45) + abs(want) / 2**22


@given(weighted(), st.randoms(use_true_random=False), st.sampled_from(["cohort", "senders"]))
def test_weighted_replies_in_any_order_give_the_same_bits(case, random, kind):
    def total(order):
        mean = Mean(12, cohort=6, mean=kind, most_weight=case[1])
        for positions, values, weight in order:
            mean.fold(positions, values / np.float32(8), weight)
        return mean.mean().tobytes()

    shuffled = list(case[0])
    random.shuffle(shuffled)
    assert total(case[0]) == total(shuffled)


def test_a_weight_is_as_many_replies():
    one, many = Mean(3, cohort=2, most_weight=8), Mean(3, cohort=8)
    one.fold(np.array([0, 2]), f32(0.3, -5), 7)
    one.fold(None, f32(1, 1, 1e-5))
    for _ in range(7):
        many.fold(np.array([0, 2]), f32(0.3, -5))
    many.fold(None, f32(1, 1, 1e-5))
    assert one.mean().tobytes() == many.mean().tobytes()


@pytest.mark.parametrize("most", [1, 3, 1024, MOST_WEIGHT])
def test_the_sum_stays_in_range_at_the_largest_weight_and_value(most):
    limit = np.float32(2.0**19 / most)
    below = np.nextafter(np.float32(2.0**19) / np.float32(most), np.float32(0))
    mean = Mean(2, cohort=2, mean="senders", most_weight=most)
    mean.fold(None, f32(below, -below), most)
    assert mean.mean() == pytest.approx([below, -below], rel=2.0**-22)
    assert mean.mean()[0] == -mean.mean()[1] > 0
    with pytest.raises(WireError, match=r"weight 1; expected 1 to 0"):
        mean.fold(None, f32(0, 0))
    with pytest.raises(WireError, match="magnitude"):
        Mean(1, cohort=1, most_weight=most).fold(None, f32(limit), most)


@pytest.mark.parametrize("weight", [0, -1, 4])
def test_a_weight_that_cannot_be_is_refused_and_leaves_the_sum(weight):
    mean = Mean(1, cohort=3, most_weight=5)
    mean.fold(None, f32(2), 2)
    with pytest.raises(WireError, match=f"weight {weight}; expected 1 to 3"):
        mean.fold(None, f32(1), weight)
    assert (mean.n, mean.weight, mean.mean().tolist()) == (1, 2, [2])


@pytest.mark.parametrize("most", [0, MOST_WEIGHT + 1])
def test_weights_that_leave_the_range_are_a_setting_that_cannot_be(most):
    with pytest.raises(ConfigError, match="weights sum to"):
        Mean(1, cohort=1, most_weight=most)


counts_of = st.dictionaries(
    st.text(max_size=3), st.one_of(st.integers(0, 50), st.integers(0, 1 << 48)), max_size=30
)


@given(counts_of, st.randoms(use_true_random=False), st.sampled_from([1, 40, WEIGHTS]))
def test_weights_are_small_in_proportion_and_of_no_order(counts, random, most):
    weights = whole_weights(counts, most)
    assert sum(weights.values()) <= max(most, len(counts))
    assert all(weight >= 1 for weight in weights.values())
    for a, x in counts.items():
        for b, y in counts.items():
            if x <= y:
                assert weights[a] <= weights[b]
            # All are one factor times their count, give or take 1/2; the least are 1.
            if weights[a] > 1 and weights[b] > 1 and y:
                assert (weights[a] - 0.5) * y <= (weights[b] + 0.5) * x + 1e-9 * x * y
    shuffled = list(counts)
    random.shuffle(shuffled)
    assert whole_weights({c: counts[c] for c in shuffled}, most) == weights


@pytest.mark.parametrize(
    ("counts", "want"),
    [
        ([], []),
        ([0, 0], [1, 1]),
        ([10**6] * 3000, [1] * 3000),
        ([10, 20, 70], [1, 2, 7]),
        ([1, 1, 1022], [1, 1, 1022]),
        ([1, 1023_000], [1, 1023]),
        ([333_333, 333_334, 333_333], [341, 342, 341]),
        ([10**6, 3 * 10**6 + 1], [256, 768]),
    ],
)
def test_weights_by_hand(counts, want):
    names = [str(i) for i in range(len(counts))]
    weights = whole_weights(dict(zip(names, counts, strict=True)))
    assert [weights[name] for name in names] == want
