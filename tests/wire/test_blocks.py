"""By blocks or in one piece: the bytes and values are the same, and nothing of length P is held."""

import tracemalloc

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedllm_app.core.errors import WireError
from fedllm_app.server.aggregate import Mean
from fedllm_app.wire import blocks, table
from fedllm_app.wire.codec import decode, decode_blocks, encode
from fedllm_app.wire.header import Origin
from fedllm_app.wire.quantize import VALUE_TYPES
from fedllm_app.wire.unpack import Values, blocks_of

BITS = {"int8": 8, "int4": 4, "q4": 4, "q3": 3, "q2": 2}
NOT_SENT = {"int8": 0x80, "int4": 0x8, "q4": 14, "q3": 6, "q2": 2}


def ours(P):
    return Origin(P, "ab" * 16, "cd" * 16)


def write(values, P, value_type, positions=None):
    return encode(
        values, positions, ours(P), value_type=value_type, block=16, rng=np.random.default_rng(7)
    )


def in_one_piece(values, value_type, absent):
    """Return a section as the specification says it, the plain way."""
    values, marked = values.astype(np.float32), absent.any()
    if value_type == "fp32":
        words = values.view(np.uint32).copy()
    elif value_type == "fp16":
        words = values.astype(np.float16).view(np.uint16)
    elif value_type == "bf16":
        bits = values.view(np.uint32).astype(np.uint64)
        words = (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)
    if value_type not in BITS:
        words[absent] = np.iinfo(words.dtype).max
        return words.tobytes()
    draws = np.random.default_rng(7).random(values.size, dtype=np.float32)
    if value_type in ("int8", "int4"):
        most = np.float32(127 if value_type == "int8" else 7)
        padded = np.append(values, np.zeros(-values.size % 16, np.float32)).reshape(-1, 16)
        head = np.abs(padded).max(axis=1) / most
        scale = np.repeat(head, 16)[: values.size]
        x = np.divide(values, scale, out=np.zeros_like(values), where=scale > 0)
        codes = np.clip(np.floor(x) + (draws < x - np.floor(x)), -most, most).astype(np.int64)
    elif value_type == "q2":
        head, codes = pairs_in_one_piece(values, draws, absent)
    else:
        L = (8 if value_type == "q4" else 4) - marked
        head = table.table_for(values[~absent], L)
        low = np.maximum(np.searchsorted(head, np.abs(values), side="right") - 1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = (np.abs(values) - head[low]) / np.append(np.diff(head), np.float32(0))[low]
        codes = low + (draws < share) + L * (values < 0)
    codes[absent] = NOT_SENT[value_type]
    stream = (codes[:, None] >> np.arange(BITS[value_type]) & 1).astype(np.uint8)
    return head.tobytes() + np.packbits(stream, bitorder="little").tobytes()


def pairs_in_one_piece(values, draws, absent):
    """Return pairs and codes, one stretch and one value after the other."""
    head, codes = [], np.zeros(values.size, np.int64)
    for start in range(0, values.size, 1024):
        part = slice(start, start + 1024)
        size = np.abs(values[part])[~absent[part]].astype(np.float64)
        most = size.max(initial=0)
        low, L = most, 1
        if not absent.any():
            ordered, L = np.sort(size), 2
            errors = [
                sum(a * a - v * v if v <= a else (v - a) * (most - v) for v in ordered)
                for a in ordered
            ]
            low = ordered[int(np.argmin(np.round(errors, 6)))]
        head += [low] * (L == 2) + [most]
        for i in range(part.start, min(part.stop, values.size)):
            size, draw = abs(values[i]), draws[i]
            if size < low:
                codes[i] = L * (draw >= (1 + values[i] / np.float32(low)) / 2)
            else:
                codes[i] = L * (values[i] < 0) + (draw * (most - low) < size - low)
    return np.array(head, np.float32), codes


values_of = hnp.arrays(
    np.float32, st.integers(1, 140), elements=st.floats(-1000, 1000, width=16)
)  # fmt: skip


@given(values_of, st.sampled_from(VALUE_TYPES), st.sampled_from([1, 16, 24, 64, 1 << 16]))
def test_dense_bytes_are_those_of_one_piece(values, value_type, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", size)
        payload = write(values, values.size, value_type)
    nothing = np.zeros(values.size, np.bool_)
    assert payload[64:].tobytes() == in_one_piece(values, value_type, nothing)


@given(values_of, st.data(), st.sampled_from(VALUE_TYPES), st.sampled_from([1, 16, 24, 64]))
def test_marked_bytes_are_those_of_one_piece(values, data, value_type, size):
    few = st.lists(st.integers(0, values.size - 1), min_size=1, max_size=2, unique=True)
    absent = np.zeros(values.size, np.bool_)
    absent[data.draw(few)] = True
    at = np.flatnonzero(~absent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", size)
        payload = write(values[at], values.size, value_type, at)
        got = decode(payload, ours(values.size))
    if payload[5] == 4:
        plain = in_one_piece(np.where(absent, np.float32(0), values), value_type, absent)
        assert payload[64:].tobytes() == plain
    assert np.array_equal(got.positions, at)
    assert got.values.tobytes() == decode(payload, ours(values.size)).values.tobytes()


@given(values_of, st.sampled_from(VALUE_TYPES), st.sampled_from([1, 16, 24, 64]))
def test_blocks_are_the_whole_cut_up_and_fold_to_the_same_bits(values, value_type, size):
    P = values.size
    payload = write(values, P, value_type)
    whole, means = decode(payload, ours(P)).values, [Mean(P, cohort=2) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", size)
        coded = decode_blocks(payload, ours(P))
        assert isinstance(coded.values, Values)
        found = list(blocks_of(coded.values))
        means[0].fold(None, coded.values)
    means[1].fold(None, whole)
    assert np.concatenate([v for _, v in found]).tobytes() == whole.tobytes()
    assert [i for part, _ in found for i in range(part.start, part.stop)] == list(range(P))
    assert coded.values.largest == np.abs(whole).max()
    assert means[0].mean().tobytes() == means[1].mean().tobytes()


@pytest.mark.parametrize("value_type", ["fp32", "fp16", "bf16", "int8", "int4", "q3", "q2"])
def test_what_is_wrong_in_the_last_block_is_refused_before_the_first_is_folded(
    value_type, monkeypatch
):
    monkeypatch.setattr(blocks, "BLOCK", 16)
    P = 1064  # of q2, a pair is of 1,024 values
    payload = write(np.ones(P, np.float32), P, value_type)
    payload[-3:] = {"int8": 0x80, "int4": 0x88}.get(value_type, 0xFF)
    if value_type in ("q3", "q2"):  # all codes are in use; a level is not
        payload[{"q3": 64, "q2": 72}[value_type] :][:4] = 0xFF
    with pytest.raises(WireError):
        decode_blocks(payload, ours(P))
    with pytest.raises(WireError):
        decode(payload, ours(P))


def test_a_coded_value_beyond_the_limit_leaves_the_sum_as_it_was(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 16)
    values = np.ones(40, np.float32)
    values[-1] = 2.0**18
    mean = Mean(40, cohort=2)
    mean.fold(None, np.ones(40, np.float32))
    with pytest.raises(WireError, match="magnitude"):
        mean.fold(None, decode_blocks(write(values, 40, "int8"), ours(40)).values)
    assert mean.mean().tolist() == [1] * 40


def test_a_table_of_very_many_values_is_as_good_as_one_from_a_copy(monkeypatch):
    rng = np.random.default_rng(0)
    values = (rng.normal(size=300_000) * np.exp(rng.normal(size=300_000))).astype(np.float32)
    copied = table.table_for(values, 8)
    monkeypatch.setattr(table, "MOST_COPIED", 1000)
    table_L, size = table.table_for(values, 8), np.abs(values)
    assert (table_L[0], table_L[-1]) == (size.min(), size.max())
    assert table._top(values, 2048)[0] == np.sort(size)[-2048]

    def error(level_L):
        low = table.below(size, level_L)
        above = level_L[np.minimum(low + 1, 7)]
        return float(((size - level_L[low]).astype(np.float64) * (above - size)).sum())

    assert error(table_L) <= 1.02 * error(copied)


@pytest.mark.parametrize("value_type", VALUE_TYPES)
def test_nothing_as_long_as_all_parameters_is_held_beside_what_must_be(value_type, monkeypatch):
    P = 2_000_000
    monkeypatch.setattr(table, "MOST_COPIED", 1000)
    values = np.random.default_rng(0).standard_normal(P, dtype=np.float32)
    mean = Mean(P, cohort=2, mean="senders")

    def beside(work):
        tracemalloc.start()
        kept = work()
        peak = tracemalloc.get_traced_memory()[1] - getattr(kept, "nbytes", 0)
        tracemalloc.stop()
        return kept, peak

    payload, encoding = beside(lambda: write(values, P, value_type))
    assert encoding < 3_000_000
    folding = beside(lambda: mean.fold(None, decode_blocks(payload, ours(P)).values))[1]
    assert folding < 3_000_000
    assert beside(mean.mean)[1] < 3_000_000


@given(st.sampled_from([0.005, 0.1, 0.38, 0.6]), st.integers(0, 30), st.sampled_from([1, 8, 24]))
def test_positions_are_those_of_one_piece(density, seed, size):
    P = 700
    at = np.flatnonzero(np.random.default_rng(seed).random(P) < density)
    values = np.ones(at.size, np.float32)
    payload = write(values, P, "fp32", at)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", size)
        assert write(values, P, "fp32", at).tobytes() == payload.tobytes()
        assert np.array_equal(decode(payload, ours(P)).positions, at)
