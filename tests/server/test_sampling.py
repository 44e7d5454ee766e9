"""Cohorts: from (seed, round) and the set of clients alone, and nobody without data."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fedllm_app.core.counts import Counts
from fedllm_app.server.sampling import sample_cohort

COUNTS = st.dictionaries(st.text(max_size=3), st.integers(0, 3), max_size=12)


@given(COUNTS, st.integers(1, 6), st.integers(0, 99), st.integers(1, 99), st.randoms())
def test_a_cohort(counts, n, seed, round_, random):
    cohort = sample_cohort(counts, n, seed, round_)
    eligible = [c for c, count in counts.items() if count > 0]
    assert len(cohort) == min(n, len(eligible)) == len(set(cohort))
    assert set(cohort) <= set(eligible)
    assert cohort == sorted(cohort)
    shuffled = list(counts.items())
    random.shuffle(shuffled)
    assert sample_cohort(dict(shuffled), n, seed, round_) == cohort
    sorted_once = Counts(shuffled)
    for again in (round_, round_ + 1):
        assert sample_cohort(sorted_once, n, seed, again) == sample_cohort(counts, n, seed, again)


def test_empty_clients_do_not_move_the_draw():
    full = {str(i): 1 for i in range(10)}
    assert sample_cohort(full, 3, 0, 1) == sample_cohort(full | {"empty": 0}, 3, 0, 1)


def test_rounds_and_seeds_draw_otherwise():
    counts = {str(i): 1 for i in range(50)}
    drawn = [sample_cohort(counts, 5, seed, round_) for seed in (0, 1) for round_ in range(1, 20)]
    assert len({str(c) for c in drawn}) == len(drawn)


def test_the_draw_is_uniform_whatever_the_number_of_examples():
    counts = {"a": 1, "b": 1000, "c": 3, "d": 4, "e": 5}
    seen = Counter(c for t in range(2000) for c in sample_cohort(counts, 2, 0, t))
    # 800 each, with a standard deviation of 22.
    assert all(abs(n - 800) < 110 for n in seen.values()), seen
