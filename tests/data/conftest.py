"""A tokenizer small enough to count by hand: one number per word."""

import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ["[PAD]", "[UNK]", "[EOS]", "a", "b", "c", "d", "e"]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]"
    )


@pytest.fixture
def shared() -> Path:
    """Return the folder of real data, FEDLLM_TEST_DATA."""
    beside = Path(__file__).parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("FEDLLM_TEST_DATA", beside)).expanduser()
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; FEDLLM_TEST_DATA names the folder")
    return folder


@pytest.fixture
def minilm_folder() -> Path:
    root = os.environ.get("FEDLLM_TEST_WEIGHTS", "~/.cache/fedllm-test-weights")
    found = sorted(Path(root).expanduser().glob("**/minilm*/**/tokenizer.json"))
    if not found:
        pytest.skip(f"no MiniLM under {root}; FEDLLM_TEST_WEIGHTS names the folder")
    return found[0].parent
