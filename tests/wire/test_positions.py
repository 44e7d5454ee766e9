"""Positions as bytes: every support comes back, near its entropy; hostile bytes are refused."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedllm_app.core.errors import WireError
from fedllm_app.wire import positions as where
from fedllm_app.wire.marks import listed
from fedllm_app.wire.positions import Rice


@st.composite
def supports(draw):
    """Return (positions, P): random, clustered or with far outliers."""
    P = draw(st.integers(1, 3000))
    density = draw(st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.21, 0.38, 0.5, 0.9, 1.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    chosen = rng.random(P) < density
    if draw(st.booleans()):
        chosen[: P // 2] = draw(st.booleans())
    return np.flatnonzero(chosen).astype(np.int64), P


def data(*values):
    return np.array(values, dtype=np.uint8)


@given(supports())
def test_both_codes_give_the_positions_back(support):
    positions, P = support
    bitmap = where.encode_bitmap(positions, P)
    assert bitmap.size == where.bitmap_bytes(P)
    assert np.array_equal(listed(where.decode_bitmap(bitmap, P, positions.size)), positions)
    rice = where.encode_rice(positions, P)
    assert rice.data.size <= where.max_rice_bytes(positions.size, P)
    assert np.array_equal(listed(where.decode_rice(rice, P, positions.size)), positions)


@pytest.mark.parametrize("inverse", [2, 2.4, 2.63, 3, 4, 4.7, 5, 8, 9, 10, 16, 17, 64, 256, 1000])
def test_random_supports_take_at_most_1_02_of_their_entropy(inverse):
    P, d = 1_000_000, 1 / inverse
    positions = np.flatnonzero(np.random.default_rng(0).random(P) < d)
    d = positions.size / P
    entropy = P * (-d * math.log2(d) - (1 - d) * math.log2(1 - d)) / 8
    assert min(where.bitmap_bytes(P), where.encode_rice(positions, P).data.size) <= 1.02 * entropy


def test_the_shortened_stream_of_the_specification():
    rice = Rice(0, True, data(6, 0, 0, 0, 0x31, 0xA8))
    assert listed(where.decode_rice(rice, 16, 5)).tolist() == [2, 6, 7, 8, 15]


def test_positions_beyond_32_bits():
    positions = np.array([5, (1 << 33) + 7], dtype=np.int64)
    rice = where.encode_rice(positions, 1 << 34)
    assert np.array_equal(where.decode_rice(rice, 1 << 34, 2), positions)


@pytest.mark.parametrize(
    ("code", "P", "K", "why"),
    [
        (data(1, 0), 8, 1, "2 bytes; expected 1"),
        (data(3), 8, 1, "holds 2 positions"),
        (data(128), 7, 1, "padding"),
    ],
)
def test_bitmaps_that_are_refused(code, P, K, why):
    with pytest.raises(WireError, match=why):
        where.decode_bitmap(code, P, K)


@pytest.mark.parametrize(
    ("rice", "P", "K", "why"),
    [
        (Rice(32, False, data(1)), 8, 1, "parameter is 32"),
        (Rice(0, False, data(1, 0)), 8, 1, "2 bytes"),
        (Rice(0, False, data(1, 0)), 16, 1, "empty byte"),
        (Rice(0, False, data(3)), 8, 1, "holds 2 positions"),
        (Rice(0, False, data(128)), 7, 1, "last position is 7"),
        (Rice(4, False, data(1, 0xF)), 8, 1, "last position is 15"),
        (Rice(4, False, data(1, 0x10)), 8, 1, "padding"),
        (Rice(9, False, data(1)), 8, 1, "2 of low bits"),
        (Rice(0, True, data(1, 0)), 8, 1, "expected at least 4"),
        (Rice(0, True, data(255, 255, 255, 255, 1)), 8, 1, "4294967295 groups"),
        (Rice(0, True, data(3, 0, 0, 0)), 8, 1, "3 groups need 6"),
        (Rice(0, True, data(3, 0, 0, 0, 0)), 8, 0, "groups"),
        (Rice(0, True, data(1, 0, 0, 0, 0)), 8, 1, "empty group"),
        (Rice(0, True, data(1, 0, 0, 0, 0xF8)), 8, 1, "padding"),
        (Rice(0, True, data(4, 0, 0, 0, 0xFF)), 16, 4, "ends after 8 bits"),
    ],
)
def test_rice_codes_that_are_refused(rice, P, K, why):
    with pytest.raises(WireError, match=why):
        where.decode_rice(rice, P, K)


@given(
    st.binary(max_size=60),
    st.integers(1, 500),
    st.integers(0, 500),
    st.integers(0, 40),
    st.booleans(),
)
def test_any_bytes_are_refused_or_are_positions(raw, P, K, k, shortened):
    code = np.frombuffer(raw, dtype=np.uint8)
    for decode in (
        lambda: where.decode_rice(Rice(k, shortened, code), P, min(K, P)),
        lambda: where.decode_bitmap(code, P, min(K, P)),
    ):
        try:
            positions = decode()
        except WireError:
            continue
        assert positions.size == min(K, P)
        where.check_positions(listed(positions), P)


def test_a_claim_of_many_groups_takes_no_memory():
    rice = Rice(0, True, data(255, 255, 255, 255, *([255] * 100)))
    tracemalloc.start()
    with pytest.raises(WireError):
        where.decode_rice(rice, 1 << 34, 1 << 33)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize("bad", [[3, 3], [4, 2], [-1, 2], [2, 8]])
def test_positions_out_of_order_or_range_are_refused(bad):
    with pytest.raises(WireError, match="positions"):
        where.check_positions(np.array(bad), 8)
