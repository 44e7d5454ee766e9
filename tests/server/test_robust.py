"""Trimmed mean and median: against numpy by hand, exact in any order, block by block."""

import tracemalloc

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import LAYOUT

from fedllm_app.core.region import region_of
from fedllm_app.server import robust
from fedllm_app.server.aggregate import Mean
from fedllm_app.server.robust import Robust
from fedllm_app.wire.codec import decode_blocks, encode
from fedllm_app.wire.slices import Origin

P = 37
HASH = "ab" * 16


def f32(*values):
    return np.array(values, np.float32)


@st.composite
def replies(draw):
    """Return up to 6 replies of (positions or None, values, scale)."""
    found = []
    for _ in range(draw(st.integers(1, 6))):
        chosen = np.flatnonzero(draw(hnp.arrays(np.bool_, P)))
        positions = draw(st.sampled_from([None, chosen]))
        K = P if positions is None else chosen.size
        values = draw(hnp.arrays(np.float32, K, elements=st.floats(-100, 100, width=32)))
        found.append((positions, values, draw(st.sampled_from([1.0, 0.5]))))
    return found


def result(items, kind="cohort", trim=None, make=Robust):
    how = {"trim": trim} if make is Robust else {}
    combined = make(P, cohort=6, mean=kind, **how)
    for positions, values, scale in items:
        combined.fold(positions, values, scale=scale)
    return combined.mean()


KINDS = st.sampled_from(["cohort", "senders"])


@given(replies(), KINDS, st.sampled_from([None, 0.0, 0.2, 0.4]), st.sampled_from([8, 1 << 19]))
def test_against_numpy(items, kind, trim, cells):
    table = np.full((len(items), P), 0.0 if kind == "cohort" else np.nan)
    for i, (positions, values, scale) in enumerate(items):
        table[i, slice(None) if positions is None else positions] = values * np.float32(scale)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robust, "CELLS", cells)
        got = result(items, kind, trim)
    for column, value in zip(table.T, got, strict=True):
        there = np.sort(column[~np.isnan(column)])
        cut = 0 if trim is None else int(np.floor(trim * there.size + 1e-9))
        kept = there[cut : there.size - cut]
        middle = np.median if trim is None else np.mean
        want = middle(kept) if kept.size else 0.0
        assert value == pytest.approx(want, rel=1e-6, abs=1e-9)


@given(replies(), KINDS, st.sampled_from([None, 0.2]), st.randoms(use_true_random=False))
def test_any_order_gives_the_same_bits(items, kind, trim, random):
    shuffled = list(items)
    random.shuffle(shuffled)
    assert result(items, kind, trim).tobytes() == result(shuffled, kind, trim).tobytes()


@given(replies(), KINDS)
def test_a_trimmed_mean_that_trims_nothing_has_the_bits_of_the_mean(items, kind):
    assert result(items, kind, 0.0).tobytes() == result(items, kind, make=Mean).tobytes()


def test_two_wrong_replies_of_ten_move_nothing():
    honest = [(None, np.full(P, v, np.float32), 1.0) for v in (1, 1, 1, 2, 2, 2, 3, 3)]
    wrong = [(None, np.full(P, v, np.float32), 1.0) for v in (500, -500)]
    middle = Robust(P, cohort=10)
    trimmed = Robust(P, cohort=10, trim=0.2)
    for positions, values, scale in honest + wrong:
        middle.fold(positions, values, scale=scale)
        trimmed.fold(positions, values, scale=scale)
    assert middle.mean().tolist() == [2.0] * P
    # 0.2 of 10 is two at either end: 1, 1, 2, 2, 2, 3 are left.
    assert trimmed.mean() == pytest.approx(np.full(P, 11 / 6))


@pytest.mark.parametrize("value_type", ["fp32", "bf16", "int8", "q4", "q3", "q2"])
@pytest.mark.parametrize("K", [5, 20_000, 99_990])
def test_values_stay_coded_until_they_are_wanted(value_type, K):
    size, rng = 100_000, np.random.default_rng(K)
    origin, found = Origin(size, HASH, HASH), []
    for _ in range(3):
        positions = np.sort(rng.choice(size, K, replace=False))
        values = rng.normal(size=K).astype(np.float32)
        payload = encode(values, positions, origin, value_type=value_type, block=256, rng=rng)
        found.append(decode_blocks(payload, origin))
    results = {}
    for name, make in (("mean", Mean), ("trimmed", lambda P, **how: Robust(P, trim=0.0, **how))):
        combined = make(size, cohort=3)
        for update in found:
            combined.fold(update.positions, update.values)
        results[name] = combined.mean().tobytes()
    assert results["mean"] == results["trimmed"]


def test_a_region_is_where_it_says():
    name = LAYOUT.names[1]
    region = region_of(LAYOUT, [(name, (slice(0, 1),))])
    combined = Robust(LAYOUT.size, cohort=1)
    combined.fold(region, np.full(region.size, 3, np.float32))
    assert np.flatnonzero(combined.mean()).tolist() == region.positions().tolist()


def test_replies_are_kept_coded_and_combined_in_little_memory():
    size, K = 1 << 21, 1 << 17
    origin, rng = Origin(size, HASH, HASH), np.random.default_rng(0)
    payloads = []
    for _ in range(10):
        positions = np.sort(rng.choice(size, K, replace=False))
        values = rng.normal(size=K).astype(np.float32)
        how = {"value_type": "q4", "block": 256, "rng": rng}
        payloads.append(encode(values, positions, origin, **how))
    combined = Robust(size, cohort=10)
    tracemalloc.start()
    for payload in payloads:
        update = decode_blocks(payload, origin)
        combined.fold(update.positions, update.values)
    del update
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    combined.mean()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # One bit for each coordinate; the payloads themselves were there before.
    assert kept < 1.1 * 10 * size / 8
    assert peak - kept - 4 * size < 24e6
