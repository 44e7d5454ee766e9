"""Packed rows and what a batch of them says; attention stays inside a document."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

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
            return model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits

    whole = logits(ROWS)
    other = {**ROWS, "input_ids": ROWS["input_ids"].copy()}
    other["input_ids"][0, :3] = [1, 1, 1]
    torch.testing.assert_close(logits(other)[0, 3:], whole[0, 3:])
    assert not torch.allclose(logits(other)[0, :3], whole[0, :3])
    alone = {"input_ids": ROWS["input_ids"][:1, 3:], "starts": np.array([[0, 0]])}
    torch.testing.assert_close(logits(alone)[0], whole[0, 3:])
