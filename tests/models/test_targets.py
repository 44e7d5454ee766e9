"""Presets find the layers of each architecture."""

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from fedllm_app.core.errors import ConfigError
from fedllm_app.models.adapter import wrap
from fedllm_app.models.backbone import load_backbone
from fedllm_app.models.settings import LoraSettings, ModelSettings
from fedllm_app.models.targets import head_modules, is_language_model, lora_targets

TASK = {"bert": "sequence-classification", "vit": "image-classification"}


@pytest.fixture
def backbone(source, tmp_path):
    def load(kind: str):
        task = TASK.get(kind, "next-token")
        folder = source(kind)
        labels = ["a", "b"] if kind in TASK else []
        return load_backbone(ModelSettings(source=folder), folder, task, labels, tmp_path)

    return load


@pytest.mark.parametrize(
    ("kind", "auto", "qkv"),
    [
        ("bert", ["query", "value"], ["query", "key", "value"]),
        ("gpt2", ["c_attn", "c_proj", "c_fc"], ["c_attn"]),
        ("llama", ["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj"]),
        ("vit", ["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj"]),
    ],
)
def test_presets(backbone, kind, auto, qkv):
    model = backbone(kind)
    assert lora_targets(model, "auto", ()) == auto
    assert lora_targets(model, "qkv", ()) == qkv


def test_all_linear_leaves_out_heads_and_what_is_trained_whole(backbone):
    names = lora_targets(backbone("bert"), "all-linear", ["bert.pooler.dense"])
    assert len(names) == 12  # six in each of two layers
    assert all(name.startswith("bert.encoder.layer.") for name in names)
    llama = lora_targets(backbone("llama"), "all-linear", ())
    assert len(llama) == 14 and "lm_head" not in llama


def test_names_are_checked_against_the_model(backbone):
    model = backbone("bert")
    assert lora_targets(model, "query, key", ()) == ["query", "key"]
    for spec in ("q_proj", "query,LayerNorm", "classifier", ""):
        with pytest.raises(ConfigError, match=r"lora\.targets.*dense, key, query, value"):
            lora_targets(model, spec, ())


def test_head_and_kind(backbone):
    assert head_modules(backbone("bert")) == ["classifier"]
    assert not is_language_model(backbone("bert"))
    assert head_modules(backbone("llama")) == ["lm_head"]
    assert is_language_model(backbone("llama"))


def test_gpt2_small_at_rank_16_has_the_published_size():
    # Raje 2024: 2,359,296. One layer of GPT-2 small has a twelfth of it.
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, vocab_size=10, bos_token_id=1, eos_token_id=1))
    assert wrap(model, ModelSettings(), LoraSettings(), 0).layout.size == 2_359_296 // 12
