"""A federation small enough to write out by hand: seven owners, a few words, a BERT of width 16.

Owner "gus" has one text with a word whose number in the tokenizer is beyond the model's table of
words: training on it fails on the device, as it would in the field, and his replies are dropped.
"""

import json
import random
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from fedllm_app.config import RunConfig

SEED = 5
CLIENT_LR, SERVER_LR = 0.05, 0.1
SIZES = {"ann": 3, "bob": 8, "cid": 5, "dot": 6, "eve": 4, "fay": 7}
BROKEN = "gus"
LABELS = ["land", "sea", "sky"]
# A label's texts hold its own words and shared ones, so that there is something to learn.
WORDS = {
    "land": ["hill", "stone", "path", "field"],
    "sea": ["wave", "salt", "ship", "tide"],
    "sky": ["cloud", "wind", "star", "moon"],
    "any": ["a", "the", "is", "of", "and", "near", "far", "old"],
}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ""]  # the last number is no word's
POSITIONS = 24
LOST = ("abyss", 1000)  # a word, and its number that the model has no row for
# Fewer are sent up than down, so that a mistake in either mask shows.
FLOSS = {"d-down": 1 / 4, "d-up": 1 / 16}


def write(folder: Path) -> None:
    """Write model/, train.jsonl and test.jsonl."""
    words = [*SPECIAL, *(word for group in WORDS.values() for word in group)]
    numbers = {w: i for i, w in enumerate(words) if w} | dict([LOST])
    inner = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]"}
    PreTrainedTokenizerFast(
        tokenizer_object=inner, **{f"{kind}_token": name for kind, name in names.items()}
    ).save_pretrained(folder / "model")
    config = BertConfig(
        vocab_size=len(numbers),  # as many as there are words, but not as their numbers go
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=POSITIONS,
        initializer_range=0.3,  # an untrained BERT hardly tells two texts apart
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=len(LABELS),
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        BertForSequenceClassification(config).save_pretrained(folder / "model")
    rng = random.Random(3)
    owners = [owner for owner, size in SIZES.items() for _ in range(size)]
    rng.shuffle(owners)
    train = [_row(rng, owner) for owner in owners]
    train.insert(4, {"text": f"the {LOST[0]}", "label": "sea", "user": BROKEN})
    for name, content in (("train", train), ("test", [_row(rng, "") for _ in range(30)])):
        lines = (json.dumps(row) for row in content)
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def _row(rng: random.Random, owner: str) -> dict[str, str]:
    label = rng.choice(LABELS)
    words = rng.choices(WORDS[label], k=rng.randint(1, 4)) + rng.choices(WORDS["any"], k=4)
    rng.shuffle(words)
    return {"text": " ".join(words), "label": label, "user": owner}


def settings(folder: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """Return a flat run-config over the files in `folder`, with `run={"rounds": 5}` put over it."""
    nested: dict[str, dict[str, Any]] = {
        "run": {"home": str(folder / "home"), "seed": SEED, "rounds": 3, "checkpoint-every": 1},
        "task": {"max-tokens": POSITIONS},
        "data": {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl")},
        "partition": {"name": "natural"},
        "model": {"source": str(folder / "model")},
        "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.0, "targets": "query,value"},
        "client": {"lr": CLIENT_LR, "batch": 4, "threads": 1},
        # Large, so that the largest weights are others after every round.
        "server": {"lr": SERVER_LR},
        "round": {"clients": 4, "evaluate-every": 1},
    }
    for section, keys in sections.items():
        nested.setdefault(section, {}).update(keys)
    return {f"{s}.{key}": value for s, keys in nested.items() for key, value in keys.items()}


def config(folder: Path, **sections: dict[str, Any]) -> RunConfig:
    """Return `settings` as a validated configuration."""
    return RunConfig.parse(settings(folder, **sections))


def overrides(flat: dict[str, Any]) -> list[str]:
    """Return a flat run-config as KEY=VALUE words."""
    return [f"{key}={json.dumps(value)}" for key, value in flat.items()]


def state(run: Path) -> dict[str, Tensor]:
    """Return the tensors of the newest checkpoint: parameters, and the optimizer's by name."""
    return load_file(max((run / "checkpoints").glob("round-*.safetensors")))


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Say whether two states have the same names, types, shapes and bytes."""
    return {k: (t.dtype, t.shape, t.numpy().tobytes()) for k, t in a.items()} == {
        k: (t.dtype, t.shape, t.numpy().tobytes()) for k, t in b.items()
    }


def rows(file: Path) -> list[dict[str, Any]]:
    """Return the records of a .jsonl file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def lines(run: Path, name: str) -> list[dict[str, Any]]:
    """Return the records of one of a run's .jsonl files."""
    return rows(run / name)


def loaded(adapter: Path) -> dict[str, Any]:
    """Run the lines that an adapter's README says load it; return what they define."""
    code = re.search(r"```python\n(.*?)```", (adapter / "README.md").read_text(), re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1], names)
    return names
