"""Positions by slice: back as they were, short where slices differ, safe against any bytes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedllm_app.core.errors import WireError
from fedllm_app.core.layout import ParamLayout
from fedllm_app.wire.codec import decode, encode
from fedllm_app.wire.header import MODES, Origin, read_header
from fedllm_app.wire.positions import encode_rice
from fedllm_app.wire.sliced import decode_sliced, encode_sliced
from fedllm_app.wire.slices import slices_of

# A's rows, B's columns, the head's rows, a bias and a single number.
LAYOUT = ParamLayout(
    ("q.lora_A.weight", "q.lora_B.weight", "head.weight", "head.bias", "scale"),
    ((3, 40), (30, 3), (4, 25), (4,), ()),
)
P = LAYOUT.size
SLICES = slices_of(LAYOUT)


def support(seed, densities):
    """Return positions that lie in each slice at its own density."""
    rng = np.random.default_rng(seed)
    return drawn(SLICES, rng.choice(densities, SLICES.lengths.size), rng)


def drawn(cut, density_S, rng):
    """Return ascending positions, drawn in each slice at its own density."""
    number = np.repeat(np.arange(cut.lengths.size), cut.lengths)
    place = np.arange(number.size) - cut.starts[number]
    wanted = rng.random(number.size) < np.asarray(density_S)[number]
    return np.sort(cut.flat(number[wanted], place[wanted]))


def test_a_layout_is_cut_along_ranks_and_rows():
    assert SLICES.lengths.tolist() == [40] * 3 + [30] * 3 + [25] * 4 + [4, 1]
    assert SLICES.tensor.tolist() == [0] * 3 + [1] * 3 + [2] * 4 + [3, 4]
    # Column 1 of B holds every third coordinate from the second on.
    flat = np.zeros(P, np.bool_)
    flat[120 + 1 : 120 + 90 : 3] = True
    turned = SLICES.reorder(flat)
    assert np.flatnonzero(turned).tolist() == list(range(150, 180))
    assert SLICES.flat(np.full(30, 4), np.arange(30)).tolist() == np.flatnonzero(flat).tolist()


@given(st.integers(0, 10**6), st.lists(st.sampled_from([0, 0.02, 0.2, 0.5, 0.9, 1]), min_size=1))
def test_there_and_back(seed, densities):
    positions = support(seed, densities)
    data = encode_sliced(positions, SLICES, P, P)
    got = decode_sliced(data, SLICES, P, positions.size).positions()
    assert got.dtype == np.int64
    assert got.tolist() == positions.tolist()


def test_by_hand():
    layout = ParamLayout(("a", "b"), ((2, 8), (3,)))
    # Slices of 8, 8 and 3; one of 8 holds position 5, the other none, b holds all three.
    data = encode_sliced(np.array([5, 16, 17, 18]), slices_of(layout), 19, 19)
    # Parameters of the counts, bit by bit: 0 for a (1 and 0), 1 for b (3). Counts in unary: 01, 1,
    # and 3 >> 1 as 01; the low bit of 3: 1. The gap of 5 with k = 2: 01, and its low bits 1, 0.
    bits = "01000000" + "01" + "1" + "01" + "1" + "01" + "1" + "0"
    assert "".join(map(str, np.unpackbits(data, bitorder="little")))[: len(bits)] == bits
    assert data.size == 3


def test_slices_that_differ_are_shorter_than_any_code_that_does_not_know_them():
    layout = ParamLayout(
        tuple(f"{i}.lora_{m}.weight" for i in range(6) for m in "AB"),
        ((16, 384), (384, 16)) * 6,
    )
    cut, size = slices_of(layout), layout.size
    rng = np.random.default_rng(0)
    density = np.exp(rng.normal(-4, 1.5, cut.lengths.size)).clip(0, 1)
    positions = drawn(cut, density, rng)
    d = positions.size / size
    entropy = -size / 8 * (d * np.log2(d) + (1 - d) * np.log2(1 - d))
    assert encode_rice(positions, size).data.size > entropy
    assert encode_sliced(positions, cut, size, size).size < 0.9 * entropy
    ours = Origin(size, "ab" * 16, "cd" * 16, cut)
    ones = np.ones(positions.size, np.float32)
    payload = encode(ones, positions, ours, value_type="fp32", block=256)
    assert MODES[read_header(payload).mode] == "sliced"
    assert np.array_equal(decode(payload, ours).positions, positions)
    with pytest.raises(WireError, match="was not told how it is cut"):
        decode(payload, replace(ours, slices=None))


@given(st.binary(max_size=80), st.integers(0, P))
def test_any_bytes_are_positions_or_refused(data, K):
    section = np.frombuffer(data, np.uint8)
    try:
        got = decode_sliced(section, SLICES, P, K).positions()
    except WireError:
        return
    assert got.size == K
    assert encode_sliced(got, SLICES, P, P).size <= section.size


@given(st.integers(0, 10**6), st.data())
def test_one_flipped_bit_is_other_positions_or_refused(seed, data):
    positions = support(seed, [0, 0.02, 0.3, 0.9])
    section = encode_sliced(positions, SLICES, P, P)
    bit = data.draw(st.integers(0, 8 * section.size - 1))
    section[bit // 8] ^= 1 << bit % 8
    try:
        got = decode_sliced(section, SLICES, P, positions.size).positions()
    except WireError:
        return
    assert got.size == positions.size
    assert (np.diff(got) > 0).all()
    assert got.size == 0 or 0 <= got[0] <= got[-1] < P


@given(st.sampled_from([0.0, 0.02, 0.3, 0.9]), st.integers(0, 50))
def test_a_section_is_given_up_only_where_it_is_not_smaller(density, seed):
    positions = np.flatnonzero(np.random.default_rng(seed).random(P) < density)
    section = encode_sliced(positions, SLICES, P, P)
    assert section is not None
    assert encode_sliced(positions, SLICES, P, section.size) is None
    again = encode_sliced(positions, SLICES, P, section.size + 1)
    assert again is not None and again.tobytes() == section.tobytes()
