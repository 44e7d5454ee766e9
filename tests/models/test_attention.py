"""Attention of a bfloat16 base."""

import pytest
import torch

from fedllm_app.models.attention import NAME, attend
from fedllm_app.models.backbone import load_backbone
from fedllm_app.models.settings import ModelSettings


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).bfloat16()


@pytest.mark.parametrize("mask", ["none", "bool", "added"])
def test_it_is_float32_attention_rounded_once(mask):
    q, k, v = (drawn(2, 2, 6, 8) * scale for scale in (3, 2, 1))
    seen = torch.ones(2, 1, 6, 6, dtype=torch.bool).tril()
    masks = {"none": None, "bool": seen, "added": torch.zeros(seen.shape).masked_fill(~seen, -1e4)}
    given = masks[mask]
    expected = torch.nn.functional.scaled_dot_product_attention(
        q.float(), k.float(), v.float(), attn_mask=given
    )
    if mask == "added":
        given = masks[mask].bfloat16()
    module = torch.nn.Module()
    module.is_causal = False
    out, _ = attend(module, q, k, v, given)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, expected.transpose(1, 2).bfloat16())


def test_under_autocast_it_stays_in_float32_where_that_is_faster(monkeypatch):
    module = torch.nn.Module()
    module.is_causal = False
    able = torch.cpu.get_capabilities()
    for tiles, tokens, exact in ((True, 64, True), (True, 256, False), (False, 256, True)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda t=tiles: able | {"amx_bf16": t})
        q, k, v = (drawn(1, 2, tokens, 8).float() * scale for scale in (3, 2, 1))
        plain = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out, _ = attend(module, q, k, v, None)
        assert torch.equal(out.float(), plain) is exact
        torch.testing.assert_close(out.float(), plain, rtol=0.05, atol=0.05)


def test_only_a_bfloat16_base_takes_it_and_no_saved_model_names_it(source, tmp_path):
    for dtype, taken in (("float32", "sdpa"), ("bfloat16", NAME)):
        model = load_backbone(
            ModelSettings(dtype=dtype), source("llama"), "next-token", (), tmp_path
        )
        assert model.config._attn_implementation == taken
        model.save_pretrained(tmp_path / dtype)
        assert NAME not in (tmp_path / dtype / "config.json").read_text()
