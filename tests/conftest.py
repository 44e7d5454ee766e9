"""One thread, no deadlines, and three tiny backbones with data to train them on."""

import io
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The processes that tests start find the app compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import pytest
import torch
from hypothesis import settings

# A deadline would measure the machine, not the code.
settings.register_profile("fedllm", deadline=None)
settings.load_profile("fedllm")
torch.set_num_threads(1)

WORDS = ("[PAD]", "[UNK]", "[EOS]", "sun", "moon", "sea", "sand", "rock", "ice", "the", "a", "of")
LABELS = ("sky", "water", "stone")
COLOURS = ("red", "green", "blue")


MODELS = {
    "sequence-classification": "bert", "next-token": "llama", "pretraining": "llama",
    "instruction": "llama",
}  # fmt: skip


@dataclass(frozen=True)
class Tiny:
    """A folder of tiny things: models of 2 layers and width 16, data of some dozen rows.

    Attributes
    ----------
    root : everything lies in it.
    home : run.home.
    """

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "home"

    def keys(self, task: str = "sequence-classification") -> dict[str, Any]:
        """Return the run-config keys that put a tiny model and data in the place of any other."""
        images = task == "image-classification"
        model = MODELS.get(task, "dinov2")
        chat = task == "instruction"
        data = self.root / ("images" if images else "chat" if chat else "text")
        return {
            "run.home": str(self.home),
            "task.name": task,
            "task.max-tokens": 16,
            "data.train": str(data / ("train.parquet" if images else "train.jsonl")),
            "data.test": "",
            "data.text-column": "text",
            "data.label-column": "label",
            "data.image-column": "image",
            "data.user-column": "user",
            "model.source": str(self.root / model),
            "model.tokenizer": "",
            "client.threads": 0,
        } | ({"model.chat-template": "plain"} if chat else {})


def _texts(rows: int) -> list[dict[str, Any]]:
    """Two words of the label's own and one that says nothing: six clients' worth."""
    of_label = (("sun", "moon"), ("sea", "ice"), ("sand", "rock"))
    return [
        {
            "text": " ".join([("the", "a", "of")[i % 5 % 3], *of_label[i % 3]][: 2 + i % 2]),
            "label": LABELS[i % 3],
            "user": f"user-{i % 6}",
        }
        for i in range(rows)
    ]


def _chats(rows: int) -> list[dict[str, Any]]:
    """Ask for one word and answer with another, which goes with it; three domains."""
    pairs = (("sun", "moon"), ("sea", "ice"), ("sand", "rock"))
    return [
        {
            "instruction": f"{('the', 'a')[i % 2]} {pairs[i % 3][0]}",
            "input": "of" * (i % 4 == 0),
            "response": pairs[i % 3][1], "domain": LABELS[i % 3], "user": f"user-{i % 6}",
        }
        for i in range(rows)
    ]  # fmt: skip


def _write_models(root: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        BertConfig,
        BertModel,
        Dinov2Config,
        Dinov2Model,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    width = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32,
    }  # fmt: skip
    text = {**width, "vocab_size": len(WORDS), "pad_token_id": 0, "max_position_embeddings": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made: dict[str, Any] = {
            "bert": BertModel(BertConfig(**text)),
            "llama": LlamaForCausalLM(LlamaConfig(**text, num_key_value_heads=1)),
            "dinov2": Dinov2Model(Dinov2Config(**width, image_size=8, patch_size=4)),
        }
    inner = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]"
    )
    for name, model in made.items():
        model.save_pretrained(root / name)
        if name != "dinov2":
            tokenizer.save_pretrained(root / name)


def _write_images(folder: Path) -> None:
    import datasets
    from PIL import Image

    for split, rows in (("train", 36), ("test", 12)):
        encoded = []
        for i in range(rows):
            out = io.BytesIO()
            Image.new("RGB", (8, 8), COLOURS[i % 3]).save(out, "PNG")
            encoded.append({"bytes": out.getvalue(), "path": None})
        labels = [i % 3 for i in range(rows)]
        table = {"image": encoded, "label": labels, "user": [f"u{i % 6}" for i in range(rows)]}
        made = datasets.Dataset.from_dict(table).cast_column("image", datasets.Image())
        made.to_parquet(folder / f"{split}.parquet")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Write the tiny models and data once."""
    root = tmp_path_factory.mktemp("tiny")
    _write_models(root)
    for kind in ("text", "images", "chat"):
        (root / kind).mkdir()
    for split, rows in (("train", 48), ("test", 12)):
        lines = "".join(json.dumps(row) + "\n" for row in _texts(rows))
        (root / "text" / f"{split}.jsonl").write_text(lines)
        lines = "".join(json.dumps(row) + "\n" for row in _chats(rows))
        (root / "chat" / f"{split}.jsonl").write_text(lines)
    _write_images(root / "images")
    return Tiny(root)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Return what the run logs; a server app may have taken the logger for itself."""
    logger = logging.getLogger("fedllm")
    logger.propagate = True
    caplog.set_level(logging.INFO, logger="fedllm")
    return caplog
