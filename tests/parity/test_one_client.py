"""One client with an outer Nesterov step is no worse than plain training at equal steps.

A self-test of DiLoCo (arXiv 2503.09799, one replica): a Llama of 80,000 parameters, from random
values on the topics of Python's own documentation. Both sides have the same local rate. Twelve
rounds are few for a momentum of 0.9, so it is 0.5.
"""

import json
import pydoc_data.topics

import pytest
import small
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fedllm_app.config import RunConfig
from fedllm_app.play import run_local

ROUNDS, H, WORDS = 12, 5, 400


@pytest.fixture
def language(tmp_path):
    topics = pydoc_data.topics.topics.values()
    texts = [part for topic in topics for part in topic.split("\n\n") if len(part) > 200]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<eos>"]
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    names = {"pad_token": "<pad>", "eos_token": "<eos>"}
    PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(tmp_path / "model")
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=48, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    for name, part in (("train", texts[:1000]), ("test", texts[-100:])):
        lines = (json.dumps({"text": text}) for text in part)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def losses(folder, name, **keys):
    """Return the loss on the test set before training, after half of it and at the end."""
    given = {
        "run.home": str(folder / "home"), "run.name": name, "run.rounds": ROUNDS,
        "task.name": "next-token", "task.max-tokens": 32, "data.train": str(folder / "train.jsonl"),
        "data.test": str(folder / "test.jsonl"), "model.source": str(folder / "model"),
        "model.train": "full", "partition.clients": 1, "round.clients": 1, "round.clip": "off",
        "round.evaluate-every": ROUNDS // 2, "client.optimizer": "adamw", "client.lr": 5e-4,
        "client.steps": H, "client.batch": 16, "client.keep-optimizer": True,
        "client.threads": 1,
    }  # fmt: skip
    run = run_local(RunConfig.parse(given | keys))
    records = small.lines(run, "metrics.jsonl")
    return [r["evaluation"]["loss"] for r in records if r.get("evaluation")]


def test_one_client_with_outer_nesterov_is_no_worse_than_plain_training(language):
    # One client, its optimizer kept and the outer rate 1: that is plain AdamW, in stretches of H.
    plain = losses(language, "plain", **{"strategy.name": "photon"})
    outer = losses(language, "outer", **{"strategy.name": "diloco", "server.momentum": 0.5})
    assert plain[0] == outer[0]
    assert plain[-1] < plain[0] - 0.5
    assert all(mine <= theirs for mine, theirs in zip(outer[1:], plain[1:], strict=True))
