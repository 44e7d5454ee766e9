"""Whatever bytes come: a valid update or WireError, and never much memory."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedllm_app.core.errors import WireError
from fedllm_app.wire.codec import decode, encode
from fedllm_app.wire.header import Origin
from fedllm_app.wire.positions import check_positions
from fedllm_app.wire.quantize import VALUE_TYPES

P = 300
OURS = Origin(P, "ab" * 16, "cd" * 16)


def valid(density, value_type, derived, seed):
    rng = np.random.default_rng(seed)
    positions = np.flatnonzero(rng.random(P) < density)
    return encode(
        rng.standard_normal(positions.size, dtype=np.float32),
        positions,
        OURS,
        value_type=value_type,
        block=16,
        derived=derived,
        rng=rng,
    )


payloads = st.builds(
    valid,
    st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.98, 1.0]),
    st.sampled_from(VALUE_TYPES),
    st.booleans(),
    st.integers(0, 50),
)


def check(payload, derived=None):
    try:
        got = decode(payload, OURS, derived=derived)
    except WireError as error:
        assert error.reason in ("malformed", "foreign", "non-finite")
        return
    assert got.values.dtype == np.float32
    assert np.isfinite(got.values).all()
    if got.positions is None:
        assert got.values.shape == (P,)
    else:
        check_positions(got.positions, P)
        assert got.values.shape == got.positions.shape


@given(st.binary(max_size=400))
def test_random_bytes(raw):
    check(np.frombuffer(raw, dtype=np.uint8))


@given(payloads, st.binary(max_size=200), st.integers(0, 500))
def test_random_bytes_behind_a_valid_header(payload, raw, keep):
    check(np.concatenate([payload[: 64 + keep], np.frombuffer(raw, dtype=np.uint8)]))


@given(payloads, st.integers(0, 2000))
def test_truncated(payload, length):
    check(payload[:length])


@settings(max_examples=500)
@given(payloads, st.lists(st.integers(0, 1 << 20), min_size=1, max_size=4), st.booleans())
def test_flipped_bits(payload, bits, past_header):
    flipped = payload.copy()
    start = 64 if past_header and payload.size > 64 else 0
    for bit in bits:
        flipped[start + bit // 8 % (payload.size - start)] ^= np.uint8(1 << bit % 8)
    check(flipped, np.arange(30))


@pytest.mark.parametrize("mode", range(5))
@pytest.mark.parametrize("value_type", range(4))
def test_large_claims_take_no_memory(mode, value_type):
    payload = valid(0.1, "fp32", False, 0)
    payload[5], payload[6] = mode, value_type
    payload[16:24] = np.array([P - 1], "<u8").view(np.uint8)
    payload[56:60] = 255
    payload[60:62] = (31, 1) if mode == 3 else 0
    tracemalloc.start()
    with pytest.raises(WireError):
        decode(payload, OURS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000


def test_decoding_takes_a_few_times_payload_and_positions():
    P = 1_000_000
    rng = np.random.default_rng(0)
    positions = np.flatnonzero(rng.random(P) < 0.38)
    values = rng.standard_normal(positions.size, dtype=np.float32)
    ours = replace(OURS, P=P)
    payload = encode(values, positions, ours, value_type="fp32", block=256)
    tracemalloc.start()
    decode(payload, ours)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * P + 40 * positions.size
