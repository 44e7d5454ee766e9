"""The grid: values at their nearest multiples, at about the price of their entropy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedllm_app.core.errors import WireError
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.support import Derived, Draw, expand
from fedllm_app.core.versions import Version
from fedllm_app.wire import rans
from fedllm_app.wire.bank import MOST, SYMBOLS, bank
from fedllm_app.wire.codec import decode, encode, size_of
from fedllm_app.wire.grid import ALLOWANCE, HEAD, decode_grid, encode_grid, on_grid
from fedllm_app.wire.gridded import decode_gridded, encode_gridded, grid_of
from fedllm_app.wire.slices import origin_of, slices_of

LAYOUT = ParamLayout(
    ("q.lora_A.weight", "q.lora_B.weight", "head.weight", "head.bias"),
    ((16, 300), (260, 16), (20, 90), (7,)),
)
P, BASE = LAYOUT.size, "ab" * 16
ORIGIN, SLICES = origin_of(LAYOUT, BASE), slices_of(LAYOUT)


def uneven(seed=0):
    """Return values whose slices differ by powers of ten, as changes of adapters do."""
    rng = np.random.default_rng(seed)
    scale = np.repeat(10.0 ** rng.uniform(-3, 0, SLICES.lengths.size), SLICES.lengths)
    return SLICES.restore((rng.laplace(size=P) * scale).astype(np.float32))


def test_the_bank_is_whole_and_the_same_everywhere():
    edges = bank().edges.astype(int)
    assert edges.shape == (256, SYMBOLS + 1)
    assert (np.diff(edges, axis=1) >= 1).all()
    assert (edges[:, 0] == 0).all()
    assert (edges[:, -1] == rans.TOTAL).all()
    # The middle is zero; a magnitude is as likely on either side.
    counts = np.diff(edges, axis=1)
    assert (counts[:, :MOST] == counts[:, 2 * MOST : MOST : -1]).all()
    # Other tables would read other values out of the same bytes.
    assert int((edges * np.arange(1, SYMBOLS + 2)).sum() % 1_000_003) == 802_066


@given(st.integers(0, 3000), st.integers(0, 255), st.integers(0, 5))
def test_symbols_come_back_at_the_price_of_their_probability(N, model, seed):
    counts = np.diff(bank().edges[model].astype(int))
    symbols = np.random.default_rng(seed).choice(SYMBOLS, N, p=counts / rans.TOTAL)
    below = bank().edges[model][symbols]
    words = rans.encode(bank().edges[model][symbols + 1] - below, below)
    back, used = rans.decode(words, np.full(N, model), bank().slots, bank().edges)
    assert used == words.size
    assert np.array_equal(back, symbols)
    ideal = -np.log2(counts[symbols] / rans.TOTAL).sum() / 8
    assert 2 * words.size <= 1.01 * ideal + 4 * rans.lanes_of(N)


@pytest.mark.parametrize("bits", [0.3, 1.0, 1.5, 4.0])
def test_a_section_has_at_most_the_bits_that_it_may_have(bits):
    values = uneven()
    grid = on_grid(values, bits, SLICES)
    section = encode_grid(grid, SLICES)
    assert section.size <= P * bits / 8 + ALLOWANCE
    back = decode_grid(section, P, SLICES)
    assert np.array_equal(back.codes, grid.codes)
    assert np.array_equal(back.values(), grid.values())
    # Nearest multiples, read back as the mean of what was rounded to them.
    assert np.array_equal(grid.codes, np.rint(values / grid.step))
    ones = np.abs(grid.codes) == 1
    assert np.isclose(np.abs(values[ones]).mean(), grid.levels[0], rtol=1e-5)


def test_more_bits_err_less_and_slices_save_bits():
    values = uneven()
    errors = [np.square(on_grid(values, b, SLICES).values() - values).sum() for b in (0.5, 1, 2, 4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02 * errors[0]
    grid = on_grid(values, 2.0, SLICES)
    assert encode_grid(grid, SLICES).size < 0.9 * encode_grid(grid, None).size


def test_a_grid_errs_less_than_four_bits_each_at_fewer_bytes():
    values = uneven()
    grid = encode_gridded(grid_of(values, None, ORIGIN, 3.0), None, ORIGIN, explicit=False)
    four = encode(values, None, ORIGIN, value_type="q4", block=256)
    assert grid.size < 0.8 * four.size
    error = [np.square(decode(payload, ORIGIN).values - values).sum() for payload in (grid, four)]
    assert error[0] < error[1]


@pytest.mark.parametrize("values", [np.zeros(P), np.full(P, -3.0), np.eye(1, P)[0] * 1e-30])
def test_values_without_a_spread_come_back(values):
    grid = on_grid(values.astype(np.float32), 1.5, SLICES)
    back = decode_grid(encode_grid(grid, SLICES), P, SLICES)
    np.testing.assert_allclose(back.values(), values, rtol=1e-3, atol=1e-38)


def test_positions_travel_beside_a_grid_and_derived_ones_do_not():
    values = uneven()
    idx = np.flatnonzero(np.abs(values) > 0.1)
    for where, explicit in ((idx, True), (idx, False), (np.arange(P), True)):
        grid = grid_of(values[where], where, ORIGIN, 2.0)
        payload = encode_gridded(grid, where, ORIGIN, explicit=explicit)
        update = decode(payload, ORIGIN, derived=None if explicit else where)
        assert np.array_equal(update.values, grid.values())
        if update.positions is not None:
            assert np.array_equal(update.positions, where)
    region = expand(Derived("tensors", {"only": ["*lora_B*"]}), LAYOUT, Draw(0))
    grid = grid_of(region.take(values), region, ORIGIN, 2.0)
    payload = encode_gridded(grid, region, ORIGIN, explicit=False)
    assert size_of(payload).positions == 0
    assert np.array_equal(decode(payload, ORIGIN, derived=region).values, grid.values())


@pytest.mark.parametrize("bits", [1.5, 0.6])  # the second has another step than the first
def test_the_difference_leads_to_the_same_grid_for_fewer_bytes(bits):
    before = uneven()
    after = before + 0.003 * uneven(1)
    old = grid_of(before, None, ORIGIN, 1.5)
    new = grid_of(after, None, ORIGIN, bits)
    held = Version(old.codes, old.step)
    origin = origin_of(LAYOUT, held.base(BASE))
    payload = encode_gridded(new, None, origin, explicit=False, since=held)
    _, back = decode_gridded(payload, origin, since=held)
    assert np.array_equal(back.codes, new.codes)
    assert np.array_equal(back.values(), new.values())
    whole = encode_gridded(new, None, ORIGIN, explicit=False)
    assert payload.size < (0.75 if bits == 1.5 else 1.2) * whole.size
    # Who holds something else is told so, not given other values.
    other = Version(np.roll(old.codes, 1), old.step)
    with pytest.raises(WireError, match="fingerprint"):
        decode_gridded(payload, origin_of(LAYOUT, other.base(BASE)), since=other)


def test_hostile_bytes_are_refused_or_read_but_never_more():
    grid = on_grid(uneven(), 1.5, SLICES)
    section, rng = encode_grid(grid, SLICES), np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        hostile = section.copy()
        hostile[rng.integers(hostile.size)] ^= np.uint8(1 << rng.integers(8))
        cut = hostile[: rng.integers(hostile.size) + 1] if rng.random() < 0.3 else hostile
        try:
            values = decode_grid(cut, P, SLICES).values()
            assert np.isfinite(values).all()
        except WireError:
            refused += 1
    # A changed word leaves a state that no encoder begins with; only head and levels may pass.
    assert refused > 250


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("step", np.nan, "not ascending and finite"),
        ("step", -1.0, "not ascending and finite"),
        ("levels", np.inf, "not ascending and finite"),
        ("kind", 7, "kind 7"),
    ],
)
def test_a_head_that_lies_is_named(field, value, why):
    section = encode_grid(on_grid(uneven(), 1.5, SLICES), SLICES)
    section[: HEAD.itemsize].view(HEAD)[field] = value
    with pytest.raises(WireError, match=why):
        decode_grid(section, P, SLICES)
