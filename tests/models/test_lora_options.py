"""Adapters as people make them: rsLoRA, DoRA, other beginnings, and a base in few bits."""

import numpy as np
import pytest
import torch

from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError
from fedllm_app.models.adapter import wrap
from fedllm_app.models.backbone import load_backbone
from fedllm_app.models.quantized import quantized
from fedllm_app.models.settings import LoraSettings, ModelSettings

BATCH = {"input_ids": torch.tensor([[3, 4, 5, 6]])}


def made(tiny, **lora):
    source = str(tiny.root / "llama")
    backbone = load_backbone(ModelSettings(source=source), source, "next-token", [], tiny.home)
    settings = LoraSettings(rank=4, dropout=0.0, targets="all-linear", **lora)
    return wrap(backbone, ModelSettings(source=source), settings, 0)


@pytest.mark.parametrize("init", ["default", "gaussian", "orthogonal"])
def test_adapters_change_nothing_at_first_whatever_they_begin_with(tiny, init):
    model = made(tiny, init=init)
    with torch.inference_mode():
        begun = model.logits(BATCH)
        model.load(np.zeros(model.flat.numel(), np.float32))
        torch.testing.assert_close(begun, model.logits(BATCH), atol=1e-5, rtol=1e-4)


def test_rslora_scales_by_the_root_of_the_rank(tiny):
    plain, stable = made(tiny, alpha=8.0), made(tiny, alpha=4.0, rslora=True)
    values = np.random.default_rng(0).normal(0, 0.1, plain.flat.numel()).astype(np.float32)
    for model in (plain, stable):
        model.load(values)
    with torch.inference_mode():  # 8 / 4 and 4 / sqrt(4) are both 2
        torch.testing.assert_close(plain.logits(BATCH), stable.logits(BATCH))


def test_dora_has_a_length_for_every_output_in_the_flat_vector_and_trains_it(tiny):
    model = made(tiny, dora=True)
    lengths = [n for n in model.layout.names if "magnitude" in n]
    assert lengths and len(lengths) * 2 == len(model.layout.names) - len(lengths)
    model.zero_grad()
    model.logits(BATCH).square().sum().backward()
    grads = model.layout.unflatten(model.grad)
    assert all(grads[name].abs().max() > 0 for name in lengths)


WRONG = [
    ({"lora.init": "pissa"}, "'pissa' changes the frozen base, which every device holds already"),
    ({"lora.init": "zero"}, "expected one of default, gaussian, orthogonal"),
    ({"lora.init": "orthogonal", "lora.rank": 3}, "expected an even rank"),
    ({"lora.dora": True, "strategy.name": "floss"}, "a column of length zero is lost"),
    ({"model.quantize": "4bit", "model.device": "cpu"}, "bitsandbytes does not compute"),
    ({"model.quantize": "8bit", "model.train": "full"}, "held in few bits cannot be trained"),
]


@pytest.mark.parametrize(("keys", "why"), WRONG)
def test_what_cannot_be_carried_is_refused_with_the_reason(keys, why):
    with pytest.raises(ConfigError, match=why):
        RunConfig.parse(keys)
    RunConfig.parse({"lora.dora": True, "strategy.name": "dense"})


def test_a_base_in_few_bits_needs_a_device_and_a_package(monkeypatch):
    settings = ModelSettings(quantize="4bit")
    with pytest.raises(ConfigError, match=r"set model\.quantize to '' there"):
        quantized(settings.model_copy(update={"device": "cpu"}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("fedllm_app.models.quantized.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'fedllm\[quantized\]'"):
        quantized(settings)
