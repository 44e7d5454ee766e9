"""Packed rows and what a batch of them says; attention stays inside a document."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MambaConfig, OPTConfig

from fedllm_app.core.errors import ConfigError
from fedllm_app.models.apart import check_apart
from fedllm_app.models.trainable import TrainableModel
from fedllm_app.tasks.base import IGNORED
from fedllm_app.tasks.pretraining import Pretraining, positions_of

ROWS = {
    "input_ids": np.array([[5, 6, 2, 7, 8, 2], [9, 2, 4, 4, 4, 4]], np.uint16),
    "starts": np.array([[0, 0], [0, 3], [1, 2]]),
}


def test_positions_begin_again_with_every_document():
    assert positions_of((2, 6), ROWS["starts"]).tolist() == [[0, 1, 2, 0, 1, 2], [0, 1, 0, 1, 2, 3]]
    none = np.zeros((0, 2), np.int64)
    assert positions_of((1, 4), none).tolist() == [[0, 1, 2, 3]]


def test_no_token_is_predicted_from_another_document():
    batch = Pretraining(0).collate(ROWS)
    assert batch["labels"][0].tolist() == [IGNORED, 6, 2, IGNORED, 8, 2]
    # Of 10 tokens with one before them in the row, two begin a document.
    assert Pretraining(0).units(batch) == 8
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_document_reads_nothing_of_the_one_before_it(tiny, attention):
    model = AutoModelForCausalLM.from_pretrained(
        tiny.root / "llama", attn_implementation=attention
    ).eval()
    model.config.use_cache = False

    def logits(rows):
        batch = Pretraining(0).collate(rows)
        with torch.inference_mode():
            return model(**{k: v for k, v in batch.items() if k != "labels"}).logits

    whole = logits(ROWS)
    other = {**ROWS, "input_ids": ROWS["input_ids"].copy()}
    other["input_ids"][0, :3] = [1, 1, 1]
    torch.testing.assert_close(logits(other)[0, 3:], whole[0, 3:])
    assert not torch.allclose(logits(other)[0, :3], whole[0, :3])
    alone = {"input_ids": ROWS["input_ids"][:1, 3:], "starts": np.array([[0, 0]])}
    torch.testing.assert_close(logits(alone)[0], whole[0, 3:])


def test_rows_without_a_boundary_have_plain_attention():
    whole = {"input_ids": ROWS["input_ids"], "starts": np.array([[0, 0]])}
    batch = Pretraining(0).collate(whole)
    assert "position_ids" not in batch
    assert batch["labels"][1].tolist() == [IGNORED, 2, 4, 4, 4, 4]


def small(config):
    torch.manual_seed(0)
    backbone = AutoModelForCausalLM.from_config(config)
    tensors = dict(backbone.named_parameters())
    return TrainableModel(backbone, tensors, "full", False)


def test_a_model_that_reads_on_into_the_next_document_is_refused():
    shared = {"vocab_size": 12, "hidden_size": 16, "num_hidden_layers": 2, "use_cache": False}
    llama = LlamaConfig(**shared, intermediate_size=32, num_attention_heads=2)
    check_apart(small(llama))
    opt = OPTConfig(**shared, ffn_dim=32, num_attention_heads=2, word_embed_proj_dim=16)
    for config in (MambaConfig(**shared), opt):
        with pytest.raises(ConfigError, match=r"'apart', but \w+ForCausalLM reads from"):
            check_apart(small(config))
