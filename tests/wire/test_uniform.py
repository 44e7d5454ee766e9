"""u2 to u16: unbiased, off by less than a step of the tensor's own, safe against any bytes."""

import json
import tracemalloc
from dataclasses import replace

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedllm_app.core.errors import WireError
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.region import positions_of
from fedllm_app.core.support import Derived, Draw, expand
from fedllm_app.server.aggregate import Mean
from fedllm_app.server.asked import expected
from fedllm_app.server.checked import decoded
from fedllm_app.wire import blocks
from fedllm_app.wire.codec import decode, decode_blocks, max_bytes, size_of
from fedllm_app.wire.slices import Slices, origin_of
from fedllm_app.wire.uniform import BITS, stretches_of
from fedllm_app.wire.vector import encode_set

LAYOUT = ParamLayout(("a", "none", "b", "c"), ((4, 5), (0, 3), (7,), (3, 1)))
P = LAYOUT.size
OURS = origin_of(LAYOUT, "cd" * 16)
SPANS = [slice(0, 20), slice(20, 27), slice(27, 30)]
ALL = Derived("tensors", {})
SOME = Derived("tensors", {"without": ["b"]})
LIMIT = float(np.float32(1e30))
finite = st.floats(-LIMIT, LIMIT, width=32)


def write(values, value_type, where=None, seed=0, explicit=False, origin=OURS):
    rng = None if seed is None else np.random.default_rng(seed)
    return encode_set(
        values, where, origin, explicit=explicit, value_type=value_type, block=16, rng=rng
    )


def there_and_back(values, value_type, seed=0):
    return decode(write(values, value_type, seed=seed), OURS).values


@given(hnp.arrays(np.float32, P, elements=finite), st.sampled_from(sorted(BITS)), st.booleans())
def test_a_value_errs_by_less_than_a_step_of_its_own_tensor(values, value_type, nearest):
    back = there_and_back(values, value_type, None if nearest else 3).astype(np.float64)
    for span in SPANS:
        part = values[span].astype(np.float64)
        step = (part.max() - part.min()) / (2 ** BITS[value_type] - 1)
        # Beside the step, a float32 holds 24 bits of a value.
        spare = np.abs(part).max() * 2.0**-23
        assert np.abs(back[span] - part).max() <= step * (0.5 if nearest else 1) + spare
        assert part.min() - spare <= back[span].min() <= back[span].max() <= part.max() + spare


@settings(max_examples=8)
@given(hnp.arrays(np.float32, P, elements=st.floats(-100, 100, width=32)), st.integers(2, 16))
def test_the_mean_over_draws_is_the_value(values, bits):
    """Rounding by v draws has a variance of step^2 / 4 at most: 5 standard errors of 144 draws."""
    drawn = [there_and_back(values, f"u{bits}", seed) for seed in range(144)]
    draws = np.mean(drawn, axis=0, dtype=np.float64)
    for span in SPANS:
        step = np.ptp(values[span].astype(np.float64)) / (2**bits - 1)
        assert np.abs(draws[span] - values[span]).max() <= 5 * step / 2 / 12 + 1e-5


def test_a_value_between_levels_is_drawn_in_proportion():
    # Levels 0, 1, 2, 3 of "a"; 0.25 becomes 1 in a quarter of the draws, 2.5 becomes 3 in half.
    values = np.zeros(P, np.float32)
    values[:5] = (3, 0.25, 2.5, 1, 0)
    draws = [there_and_back(values, "u2", seed)[:5] for seed in range(1000)]
    assert {tuple(np.unique(column)) for column in np.transpose(draws)} == {
        (3,), (0, 1), (2, 3), (1,), (0,),
    }  # fmt: skip
    error = np.abs(np.mean(draws, axis=0) - values[:5])
    assert error.max() < 4 * 0.5 / 1000**0.5


@pytest.mark.parametrize("value_type", BITS)
def test_levels_are_kept_whatever_is_drawn(value_type):
    most = 2 ** BITS[value_type] - 1
    values = np.zeros(P, np.float32)
    values[:20] = np.linspace(0, most, 20).round() * 0.5 - 3  # steps of a half
    values[20:27] = 7  # all alike
    values[27:] = (-1, 0, -1)
    values[28] = most - 1
    for seed in (None, 0, 1):
        assert np.array_equal(there_and_back(values, value_type, seed), values)


@pytest.mark.parametrize("value_type", ["u2", "u5", "u8", "u11", "u16"])
def test_bytes_are_codes_and_twelve_for_each_tensor(value_type):
    bits, values = BITS[value_type], np.arange(P, dtype=np.float32)
    payload = write(values, value_type)
    assert (
        payload.size
        == 64 + 3 * 12 + -(-P * bits // 8)
        == max_bytes(P, P, value_type, 16, False, tensors=3)
    )
    some = expand(SOME, LAYOUT, Draw(0))
    derived = write(some.take(values), value_type, some)
    asked = expected(SOME, LAYOUT, Draw(0), value_type, 16)
    assert derived.size == 64 + 2 * 12 + -(-23 * bits // 8) == asked.most_bytes
    assert size_of(derived).values == derived.size - 64
    got = decoded(asked, OURS, derived).values.whole()
    step = 19 / (2**bits - 1)
    assert np.abs(got - some.take(values)).max() <= step * 1.001
    # Explicit positions, in two of the tensors.
    chosen = np.array([0, 3, 19, 28])
    found = write(values[chosen], value_type, chosen, explicit=True)
    assert size_of(found).values == 2 * 12 + -(-4 * bits // 8)
    back = decode(found, OURS, expect="explicit", count=4)
    assert back.positions.tolist() == chosen.tolist()
    assert np.abs(back.values - values[chosen]).max() <= step * 1.001
    assert not decode(write(values[:0], value_type, chosen[:0], explicit=True), OURS).values.size


def test_stretches_are_tensors_however_a_set_is_given():
    some = expand(SOME, LAYOUT, Draw(0))
    for where in (some, positions_of(some, P)):
        assert stretches_of(where, OURS.slices).tolist() == [20, 3]
    assert stretches_of(None, OURS.slices).tolist() == [20, 7, 3]
    # More tensors than the header counts: neighbours share a stretch.
    number = np.arange(70_000)
    many = Slices(np.full(70_000, 2), number, 2 * number, np.ones(70_000, np.int64), ())
    assert stretches_of(None, many).tolist() == [4] * 35_000


def in_one_piece(values, bits):
    """Return a section of LAYOUT as the specification says it, one value after the other."""
    draws = np.random.default_rng(0).random(P, dtype=np.float32)
    head, stream = b"", []
    for span in SPANS:
        low, high = values[span].min(), values[span].max()
        head += np.uint32(span.stop - span.start).tobytes() + low.tobytes() + high.tobytes()
        step = (float(high) - float(low)) / (2**bits - 1)
        for value, draw in zip(values[span], draws[span], strict=True):
            x = (float(value) - float(low)) / step if step else 0.0
            code = int(np.clip(np.floor(x) + (draw < x - np.floor(x)), 0, 2**bits - 1))
            stream += [code >> bit & 1 for bit in range(bits)]
    return head + np.packbits(np.array(stream, np.uint8), bitorder="little").tobytes()


@given(
    hnp.arrays(np.float32, P, elements=st.floats(-1000, 1000, width=16)),
    st.integers(2, 16),
    st.sampled_from([1, 8, 24, 1 << 16]),
)
def test_blocks_are_the_whole_cut_up_and_fold_to_the_same_bits(values, bits, size):
    whole = write(values, f"u{bits}")
    plain, means = decode(whole, OURS).values, [Mean(P, cohort=2) for _ in range(2)]
    assert whole[64:].tobytes() == in_one_piece(values, bits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", size)
        assert write(values, f"u{bits}").tobytes() == whole.tobytes()
        coded = decode_blocks(whole, OURS)
        assert np.array_equal(coded.values.whole(), plain)
        assert np.array_equal(coded.values.between(11, 29), plain[11:29])
        means[0].fold(coded.positions, coded.values)
    means[1].fold(None, plain)
    assert np.array_equal(means[0].mean(), means[1].mean())


def check(payload, derived=None):
    try:
        got = decode(payload, OURS, derived=derived)
    except WireError as error:
        assert error.reason in ("malformed", "foreign", "non-finite")
        return
    assert got.values.dtype == np.float32
    assert np.isfinite(got.values).all()
    assert got.values.size == (P if got.positions is None else got.positions.size)


@settings(max_examples=150)
@given(
    st.integers(2, 16), st.sampled_from(["all", "derived", "chosen"]),
    st.lists(st.integers(0, 1 << 20), min_size=1, max_size=4), st.integers(0, 140), st.booleans(),
)  # fmt: skip
def test_spoilt_bytes_are_refused_or_read(bits, kind, flips, keep, cut):
    values = np.random.default_rng(bits).standard_normal(P).astype(np.float32)
    some = expand(SOME, LAYOUT, Draw(0))
    where = {"all": None, "derived": some, "chosen": np.arange(0, P, 3)}[kind]
    taken = values if where is None else values[positions_of(where, P)]
    payload = write(taken, f"u{bits}", where, explicit=kind == "chosen").copy()
    if cut:
        check(payload[:keep], some)
        return
    for bit in flips:
        payload[bit // 8 % payload.size] ^= np.uint8(1 << bit % 8)
    check(payload, some)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ((29, 0, 1), "do not cover its 30 values"),
        ((30, 2, 1), "not ascending"),
        ((30, np.nan, 1), "not ascending"),
        ((30, 0, np.inf), "not ascending"),
        ((30, -3.4e38, 1), "not ascending"),
    ],
)
def test_bounds_that_no_encoder_writes_are_refused(entry, why):
    plain = replace(OURS, slices=None)  # which knows no tensors: one stretch
    payload = write(np.ones(P, np.float32), "u8", origin=plain).copy()
    payload[64:76] = np.array([entry], "<u4,<f4,<f4").view(np.uint8)
    with pytest.raises(WireError, match=why):
        decode(payload, OURS)
    for stretches, mode in ((P + 1, 0), (1, 4)):
        spoilt = write(np.ones(P, np.float32), "u8", origin=plain).copy()
        spoilt[62], spoilt[5] = stretches, mode
        with pytest.raises(WireError, match=r"stretches in mode|sends all"):
            decode(spoilt, OURS)


def test_writing_and_reading_hold_nothing_of_the_vector_s_length():
    wide = ParamLayout(("a", "b"), ((1000, 1000), (1000, 1000)))
    origin, values = origin_of(wide, "cd" * 16), np.zeros(wide.size, np.float32)
    values[::7] = 1
    for value_type in ("u5", "u8"):
        tracemalloc.start()
        payload = write(values, value_type, origin=origin)
        _ = decode_blocks(payload, origin).values.largest
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < payload.size + 8_000_000


def test_a_run_of_partial_training_costs_a_tenth(tiny):
    """0.4 of the variables in 8 bits: a tenth of dense fp32, bounds of every tensor included."""
    from fedllm_app.config import RunConfig
    from fedllm_app.play import run_local

    keys = tiny.keys("next-token") | {
        "run.name": "tenth", "run.rounds": 3, "model.train": "full", "partition.clients": 6,
        "round.clients": 4, "strategy.name": "partial", "wire.up-values": "u8",
        "wire.down-values": "u16", "server.optimizer": "sgd", "server.lr": 1.0,
        "round.evaluate-every": 3,
    }  # fmt: skip
    folder = run_local(RunConfig.parse(keys))
    rows = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    up = [row for row in rows if row["direction"] == "up"]
    share = sum(r["bytes"] for r in up) / sum(r["dense-bytes"] for r in up)
    assert 0.05 < share < 0.11
    assert {r["positions"] for r in up} == {0}
    down = [row for row in rows if row["direction"] == "down"]
    assert 0.5 < sum(r["bytes"] for r in down) / sum(r["dense-bytes"] for r in down) < 0.53
