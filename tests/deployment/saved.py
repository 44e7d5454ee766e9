"""A model and data small enough for processes that load them anew for every message."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WORDS = ["[PAD]", "[UNK]", "[EOS]", "rain", "cloud", "wind", "root", "leaf", "seed"]
TEXTS = {"sky": "rain cloud wind", "soil": "root leaf seed"}


def save_model(folder: Path) -> None:
    """Save a BERT of two layers and a tokenizer of nine words."""
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    level = models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    inner = Tokenizer(level)
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]", eos_token="[EOS]"
    ).save_pretrained(folder)


def save_rows(path: Path, labels: list[str]) -> None:
    """Save one example per label."""
    rows = [json.dumps({"text": TEXTS[label], "label": label}) for label in labels]
    path.write_text("\n".join(rows) + "\n")
