"""Tiny backbones, written to a folder as a hub would hold them: 2 layers, width 32."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    Dinov2Config,
    Dinov2Model,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

from fedllm_app.models.adapter import wrap
from fedllm_app.models.backbone import load_backbone
from fedllm_app.models.settings import LoraSettings, ModelSettings
from fedllm_app.models.trainable import TrainableModel

VOCABULARY = 100
_WIDTH: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
_TEXT = {**_WIDTH, "vocab_size": VOCABULARY}
_IMAGE = {**_WIDTH, "image_size": 28, "patch_size": 14}
_GPT2 = {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "vocab_size": VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
KINDS: dict[str, Callable[..., Any]] = {
    "bert": lambda **more: BertModel(BertConfig(**_TEXT, **more)),
    "bert-mlm": lambda **more: BertForMaskedLM(BertConfig(**_TEXT, **more)),
    "gpt2": lambda **more: GPT2LMHeadModel(GPT2Config(**_GPT2, **more)),
    "llama": lambda **more: LlamaForCausalLM(
        LlamaConfig(**_TEXT, num_key_value_heads=1, tie_word_embeddings=True, **more)
    ),
    "roberta": lambda **more: RobertaModel(RobertaConfig(**_TEXT, **more)),
    "opt": lambda **more: OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            ffn_dim=64,
            word_embed_proj_dim=32,
            **more,
        )
    ),
    "t5": lambda **more: T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY,
            d_model=32,
            d_kv=16,
            d_ff=64,
            num_layers=1,
            num_heads=2,
            decoder_start_token_id=0,
            **more,
        )
    ),
    "mixtral": lambda **more: MixtralForCausalLM(
        MixtralConfig(**_TEXT, num_key_value_heads=1, num_local_experts=4, **more)
    ),
    "mamba": lambda **more: MambaForCausalLM(
        MambaConfig(
            vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=1, state_size=4, **more
        )
    ),
    "gemma3": lambda **more: Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config={**_TEXT, "num_key_value_heads": 1, "head_dim": 16},
            vision_config={**_IMAGE, "num_hidden_layers": 1},
            mm_tokens_per_image=4,
            **more,
        )
    ),
    "vit": lambda **more: ViTModel(ViTConfig(**_IMAGE, **more), add_pooling_layer=False),
    "dinov2": lambda **more: Dinov2Model(Dinov2Config(**_IMAGE, **more)),
}
TASK = {
    "bert": "sequence-classification",
    "bert-mlm": "sequence-classification",
    "gpt2": "next-token",
    "llama": "next-token",
    "roberta": "sequence-classification",
    "t5": "sequence-classification",
    "opt": "next-token",
    "mixtral": "next-token",
    "mamba": "next-token",
    "gemma3": "next-token",
    "vit": "image-classification",
    "dinov2": "image-classification",
}
LABELS = ["sky", "sea", "soil"]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., str]:
    """Write a tiny checkpoint and return its folder."""

    def write(kind: str, **config: Any) -> str:
        folder = tmp_path / f"{kind}-source"
        with torch.random.fork_rng():
            torch.manual_seed(7)
            KINDS[kind](**config).save_pretrained(folder)
        return str(folder)

    return write


@pytest.fixture
def trainable(source, tmp_path: Path) -> Callable[..., TrainableModel]:
    """Return a wrapped tiny model; every call reads the same checkpoint."""

    def build(
        kind: str, task: str = "", lora: dict[str, Any] | None = None, seed: int = 0, **model: Any
    ) -> TrainableModel:
        task = task or TASK[kind]
        settings = ModelSettings(source=source(kind), **model)
        labels = [] if task == "next-token" else LABELS
        backbone = load_backbone(settings, settings.source, task, labels, tmp_path, seed=seed)
        return wrap(backbone, settings, LoraSettings(**{"rank": 4, **(lora or {})}), seed)

    return build


@pytest.fixture
def batch() -> Callable[[str], dict[str, torch.Tensor]]:
    """Return two rows for a task; the second text row is padded."""

    def make(task: str) -> dict[str, torch.Tensor]:
        if task == "image-classification":
            pixels = torch.linspace(-1, 1, 2 * 3 * 28 * 28).view(2, 3, 28, 28)
            return {"pixel_values": pixels, "labels": torch.tensor([0, 2])}
        ids = torch.tensor([[5, 6, 7, 8, 9, 2], [10, 11, 12, 2, 0, 0]])
        mask = (ids != 0).long()
        labels = torch.tensor([0, 2])
        if task == "next-token":
            labels = ids.masked_fill(mask == 0, -100)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    return make


@pytest.fixture
def tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """Return a tokenizer of the words w0, w1 and so on."""

    def make(words: int = VOCABULARY, **special: str) -> PreTrainedTokenizerFast:
        level = models.WordLevel({f"w{i}": i for i in range(words)}, unk_token="w3")
        inner = Tokenizer(level)
        inner.pre_tokenizer = pre_tokenizers.Whitespace()
        return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="w3", **special)

    return make
