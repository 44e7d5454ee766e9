"""Value types: what is exact stays exact, int8 is unbiased, the reserved code is never a value."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedllm_app.core.errors import WireError
from fedllm_app.wire import quantize
from fedllm_app.wire.levels import pack_codes
from fedllm_app.wire.quantize import LARGEST, VALUE_TYPES, WORD, value_bytes
from fedllm_app.wire.unpack import Marked, Values


def f32(*values):
    return np.array(values, dtype=np.float32)


def pack(values, value_type, block=16, seed=0):
    out = np.empty(value_bytes(values.size, value_type, block), dtype=np.uint8)
    rng = None if seed is None else np.random.default_rng(seed)
    quantize.pack_values(values, value_type, block, rng, out)
    return out


def there_and_back(values, value_type, block=16, seed=0):
    return Values(pack(values, value_type, block, seed), values.size, value_type, block).whole()


def arrays(largest):
    limit = float(np.float32(largest))
    return hnp.arrays(np.float32, st.integers(0, 70), elements=st.floats(-limit, limit, width=32))


@given(arrays(LARGEST["fp32"]))
def test_fp32_is_identity(values):
    assert there_and_back(values, "fp32").tobytes() == values.tobytes()


@given(arrays(LARGEST["fp16"]))
def test_fp16_is_torch_float16(values):
    expected = torch.from_numpy(values.copy()).half().float().numpy()
    assert there_and_back(values, "fp16").tobytes() == expected.tobytes()


@given(arrays(LARGEST["bf16"]))
def test_bf16_is_torch_bfloat16(values):
    expected = torch.from_numpy(values.copy()).bfloat16().float().numpy()
    assert there_and_back(values, "bf16").tobytes() == expected.tobytes()


@given(arrays(LARGEST["int8"]))
def test_int8_errs_by_less_than_one_level_of_its_block(values):
    back = there_and_back(values, "int8")
    for start in range(0, values.size, 16):
        part = values[start : start + 16]
        level = np.abs(part).max() / np.float32(127)
        error = np.abs(back[start : start + 16] / 2 - part / 2) * 2
        assert (error <= level * np.float32(1.00001) + np.float32(2e-36)).all()


def test_int8_keeps_whole_multiples_of_the_scale_whatever_is_drawn():
    values = f32(*(0.25 * c for c in range(-127, 128)))
    for seed in range(5):
        assert np.array_equal(there_and_back(values, "int8", 256, seed), values)


def test_int8_is_unbiased_over_draws():
    # Scale 1: 0.25 must become 1 in a quarter of the draws. 4 standard errors of 4000 draws.
    values = f32(127, 0.25, -0.25, 63.5, -126.9)
    draws = [there_and_back(values, "int8", 16, seed) for seed in range(4000)]
    assert np.abs(np.mean(draws, axis=0) - values).max() < 4 * 0.5 / 4000**0.5


def test_int8_blocks_have_scales_of_their_own_and_a_zero_block_has_scale_zero():
    values = np.zeros(48, dtype=np.float32)
    values[:2] = (127, 1)
    values[32:34] = (1270, 10)
    out = pack(values, "int8")
    assert out[:12].view("<f4").tolist() == [1, 0, 10]
    assert np.array_equal(Values(out, 48, "int8", 16).whole(), values)


@pytest.mark.parametrize("value_type", VALUE_TYPES)
def test_non_finite_is_refused_when_packed(value_type):
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(WireError) as refusal:
            pack(f32(1, bad), value_type)
        assert refusal.value.reason == "non-finite"


def test_a_value_too_large_for_its_type_is_refused_not_saturated():
    assert there_and_back(f32(65504), "fp16").tolist() == [65504]
    with pytest.raises(WireError, match=r"70000.*wire.up-values"):
        pack(f32(-70000), "fp16")
    with pytest.raises(WireError, match="bf16 holds"):
        pack(f32(3.4e38), "bf16")


@pytest.mark.parametrize("value_type", ["int8", "int4", "q4", "q3", "q2"])
def test_without_a_generator_values_go_to_the_nearest_level(value_type):
    values = np.random.default_rng(0).laplace(size=5000).astype(np.float32)
    nearest, drawn = (there_and_back(values, value_type, 256, seed) for seed in (None, 1))
    assert np.array_equal(nearest, there_and_back(values, value_type, 256, None))
    errors = [float(np.square(back - values).sum()) for back in (nearest, drawn)]
    # At random, a value between two levels errs by twice the square on average.
    assert errors[0] < 0.6 * errors[1]
    levels = np.unique(np.abs(nearest))
    if value_type in ("q4", "q3"):
        best = levels[np.argmin(np.abs(np.abs(values)[:, None] - levels), axis=1)]
        assert np.allclose(np.abs(nearest), best, rtol=1e-5)


@pytest.mark.parametrize("value_type", VALUE_TYPES)
def test_marked_keeps_a_sent_zero_apart_from_not_sent(value_type):
    out = np.empty(value_bytes(20, value_type, 16, True), dtype=np.uint8)
    positions, values = np.array([0, 3, 19]), f32(0, 127, 0)
    quantize.pack_marked(values, positions, 20, value_type, 16, np.random.default_rng(0), out)
    got = Marked(out, 20, 3, value_type, 16)
    assert got.marks.positions().tolist() == [0, 3, 19]
    if value_type == "q2":  # one magnitude is left, and a zero is plus or minus it
        assert np.abs(got.whole()).tolist() == [127, 127, 127]
        return
    assert got.whole().tolist() == [0, 127, 0]
    assert got.between(1, 3).tolist() == [127, 0]


@pytest.mark.parametrize("value_type", ["fp32", "fp16", "bf16", "int8", "int4"])
def test_the_code_for_not_sent_is_refused_where_all_are_sent(value_type):
    out = pack(f32(1, 2), value_type)
    size = quantize.BITS[value_type]
    codes = np.array([0, quantize.NOT_SENT[value_type]], WORD.get(value_type, np.uint8))
    data = pack_codes(codes, size) if size < 16 else codes.view(np.uint8)
    out[-data.size :] = data
    with pytest.raises(WireError, match="not sent"):
        Values(out, 2, value_type, 16).whole()


@pytest.mark.parametrize("scale", [-1.0, np.nan, np.inf, 3e36])
def test_a_scale_that_cannot_be_is_refused(scale):
    out = pack(f32(1, 2), "int8")
    out[:4] = np.array([scale], "<f4").view(np.uint8)
    with pytest.raises(WireError, match="scale"):
        Values(out, 2, "int8", 16).whole()
