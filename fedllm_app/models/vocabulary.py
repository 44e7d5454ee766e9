"""A tokenizer of the run's own: byte-level BPE, trained once on the training text.

Byte-level BPE (Sennrich et al. 2016, over the 256 bytes as in GPT-2) writes any text and reads it
back unchanged. The same text and size give the same tokenizer, on any number of threads.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from fedllm_app.core.errors import DataError
from fedllm_app.core.progress import with_progress
from fedllm_app.data.cache import build_once, digest
from fedllm_app.data.places import source_of_train
from fedllm_app.data.prepared import READ, Asked
from fedllm_app.data.settings import DataSettings
from fedllm_app.data.source import Source
from fedllm_app.data.text import stripped, tokenizer_identity
from fedllm_app.data.usable import usable

if TYPE_CHECKING:
    from datasets import Dataset

VERSION = 1  # part of the folder's name: raise it when the same text would give another tokenizer
END, PAD = "<|endoftext|>", "<|padding|>"
MOST = 200_000_000  # characters that are read; of more text, rows at equal distances
BATCH = 256  # rows that are held at once


def trained_tokenizer(data: DataSettings, task: Asked, vocabulary: int, cache: Path) -> Path:
    """Return the folder of the tokenizer of the training text, trained now if it is not there.

    One process trains while others wait for it.

    Parameters
    ----------
    data, task : which text. Where there are no test examples, the text that is held out is read
        too.
    vocabulary : most tokens; a short text has fewer pieces.
    cache : folder for all caches.

    Raises
    ------
    DataError
        If the text is not as the settings describe it.
    """
    source = source_of_train(data)
    key = digest(VERSION, source.identity(), data.model_dump(include=set(READ)), vocabulary)

    def build(folder: Path) -> None:
        raw = source.load(task.name, folder / "raw", cache)
        if raw is None:
            raise DataError(f"{source} holds no text to train a tokenizer on")
        rows = usable(raw, source, data, task.kind, None).rows
        tokenizer = train(_texts(rows, data, source), vocabulary)
        shutil.rmtree(folder / "raw", ignore_errors=True)
        tokenizer.save_pretrained(folder)

    return build_once(cache / "tokenizers" / f"{vocabulary}-{key}", build)


def train(texts: Iterator[list[str]], vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of batches of texts, with an end and a padding token.

    Parameters
    ----------
    texts : in batches.
    vocabulary : most tokens, at least 258: the bytes and the two marks.
    """
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=END,
        bos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],  # what a decoder's generate takes
    )


def _texts(rows: "Dataset", data: DataSettings, source: Source) -> Iterator[list[str]]:
    """Yield the texts in batches, at equal distances where there are more than enough."""
    import pyarrow.compute as compute

    texts = rows.select_columns([data.text_column]).with_format("arrow")[:].column(data.text_column)
    characters = compute.sum(compute.utf8_length(texts)).as_py() or 0
    if not characters:
        raise DataError(f"{source} holds no text to train a tokenizer on")
    chosen = range(0, len(texts), -(-characters // MOST))
    starts = range(0, len(chosen), BATCH)
    for start in with_progress(starts, "training the tokenizer, once"):
        found = texts.take(list(chosen[start : start + BATCH])).to_pylist()
        yield stripped(found, data)


def tokenizer_digest(tokenizer: Any) -> str:
    """Return 32 hexadecimal digits that two tokenizers share only if they cut alike."""
    return digest(tokenizer_identity(tokenizer))
