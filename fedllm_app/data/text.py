"""Turn text into token numbers once, kept as Arrow that every worker maps into memory.

No padding is stored: batches are padded to their own longest. For classification one text is one
row; for next-token prediction a text is a document (data/documents.py), cut into blocks, and
`source_row` tells which text a block came from, so that a held-out text is held out whole.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedllm_app.core.errors import DataError
from fedllm_app.data.documents import cut, documents, end_token
from fedllm_app.data.labels import label_numberer
from fedllm_app.data.settings import DataSettings
from fedllm_app.data.source import Source, require_column

if TYPE_CHECKING:
    from datasets import Dataset

Batch = dict[str, list[Any]]
CHARACTERS_PER_TOKEN = 12  # more than twice what English needs


def tokenizer_identity(tokenizer: Any) -> str:
    """Return a text that two tokenizers share only if they cut alike.

    Truncation and padding are left out: they change with the last call, not with the tokenizer.
    """
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        state = {"kind": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    else:
        state = json.loads(fast.to_str())
        state.pop("truncation", None)
        state.pop("padding", None)
    state["special"] = [tokenizer.truncation_side, tokenizer.eos_token_id, tokenizer.pad_token_id]
    return json.dumps(state, sort_keys=True)


def strip_headers(text: str) -> str:
    """Return what follows the first blank line, or the whole text if it has none."""
    _, blank, body = text.replace("\r\n", "\n").partition("\n\n")
    return body if blank else text


def stripped(texts: Sequence[str], settings: DataSettings) -> list[str]:
    """Return the texts without what `data.strip` removes."""
    return [strip_headers(text) for text in texts] if settings.strip == "headers" else [*texts]


def prepare_text(
    raw: "Dataset",
    source: Source,
    settings: DataSettings,
    tokenizer: Any,
    max_tokens: int,
    labels: Sequence[str] | None,
    file: Path,
) -> None:
    """Write `raw` as Arrow with columns input_ids, label, user, domain, source_row.

    Parameters
    ----------
    raw : rows as they are in the source.
    source : named in error messages.
    settings : columns and strip.
    tokenizer : of transformers.
    max_tokens : longest row; longer texts are truncated (classification) or cut (next-token).
    labels : label names; None for next-token prediction, which keeps a label column as it is (a
        partition may use it), and cuts texts into blocks.
    file : Arrow file to write.

    Raises
    ------
    DataError
        If a column is missing, or a text or label is not usable; the message names the row.
    """
    import datasets

    require_column(raw, "data.text-column", settings.text_column, source)
    features = {"input_ids": datasets.List(datasets.Value("int32"))}
    if labels is not None:
        require_column(raw, "data.label-column", settings.label_column, source)
        features["label"] = datasets.Value("int64")
    elif settings.label_column in raw.column_names:
        features["label"] = raw.features[settings.label_column]
    if settings.user_column in raw.column_names:
        features["user"] = datasets.Value("string")
    if settings.domain_column in raw.column_names:
        features["domain"] = datasets.Value("string")
    features["source_row"] = datasets.Value("int64")
    convert = _converter(source, settings, tokenizer, max_tokens, labels, set(features))
    prepared = raw.map(
        convert,
        batched=True,
        with_indices=True,
        remove_columns=raw.column_names,
        features=datasets.Features(features),
        cache_file_name=str(file),
        # A fingerprint of our own spares hashing the tokenizer through dill; the folder that
        # holds the file is named by a digest already.
        new_fingerprint=file.stem,
        load_from_cache_file=False,
        desc="preparing text",
    )
    if len(prepared) == 0:
        raise DataError(
            f"{source}: no text of data.text-column {settings.text_column!r} has two tokens or "
            "more; expected text to predict"
        )


def truncated(texts: Sequence[str], tokenizer: Any, max_tokens: int) -> list[list[int]]:
    """Return the tokens of each text, at most `max_tokens`.

    Long texts are tokenized up to a space well past the tokens that are kept, which is several
    times faster, and in whole where that was too short or the tokenizer keeps a text's end.
    """
    if tokenizer.truncation_side == "left":
        return tokens_of(texts, tokenizer, truncation=True, max_length=max_tokens)
    heads = [_head(text, max_tokens * CHARACTERS_PER_TOKEN) for text in texts]
    ids = tokens_of(heads, tokenizer, truncation=True, max_length=max_tokens)
    short = [
        i for i, head in enumerate(heads) if len(head) < len(texts[i]) and len(ids[i]) < max_tokens
    ]
    whole = [texts[i] for i in short]
    again = tokens_of(whole, tokenizer, truncation=True, max_length=max_tokens) if short else []
    for i, tokens in zip(short, again, strict=True):
        ids[i] = tokens
    return ids


def _head(text: str, characters: int) -> str:
    """Return the text up to a space at or before so many characters."""
    if len(text) <= characters:
        return text
    end = max(text.rfind(space, 0, characters) for space in (" ", "\n"))
    return text[:end].rstrip() if end > 0 else text


def tokens_of(texts: Sequence[str], tokenizer: Any, **options: Any) -> list[list[int]]:
    """Return the tokens of each text, with what the tokenizer puts around it."""
    found = tokenizer(
        list(texts),
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # no warning that a text is longer than the model: it is cut here
        **options,
    )["input_ids"]
    return [list(ids) for ids in found]


def _converter(
    source: Source,
    settings: DataSettings,
    tokenizer: Any,
    max_tokens: int,
    labels: Sequence[str] | None,
    columns: set[str],
) -> Callable[[Batch, list[int]], Batch]:
    """Return the function that turns a batch of raw rows into a batch of prepared ones."""
    number = label_numberer(labels or (), settings.label_column, source)
    # A text whose body is empty once stripped still is an example: one token stands for it.
    nothing = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else 0
    end = end_token(tokenizer) if labels is None else None

    def convert(batch: Batch, rows: list[int]) -> Batch:
        """Return rows of at most `max_tokens` token ids each; DataError names a row without text.

        One row for each text that has labels; without, one for each block that a text is cut into.
        """
        texts = batch[settings.text_column]
        for row, text in zip(rows, texts, strict=True):
            # Next-token corpora hold empty lines by design; they give no block.
            if not isinstance(text, str) or (labels is not None and not text.strip()):
                raise DataError(
                    f"data.text-column {settings.text_column!r} of {source} holds {text!r} in row "
                    f"{row}; expected text. Remove the row"
                )
        texts = stripped(texts, settings)
        if labels is None:
            whole = documents(texts, tokens_of(texts, tokenizer), end)
            blocks = [cut(ids, max_tokens) for ids in whole]
        else:
            blocks = [[ids or [nothing]] for ids in truncated(texts, tokenizer, max_tokens)]
        origin = np.repeat(np.arange(len(rows)), [len(b) for b in blocks]).tolist()
        made: Batch = {
            "input_ids": [block for several in blocks for block in several],
            "source_row": [rows[i] for i in origin],
        }
        if "label" in columns:
            found = batch[settings.label_column]
            if labels is not None:
                found = [number(v, row) for v, row in zip(found, rows, strict=True)]
            made["label"] = [found[i] for i in origin]
        for column, own in (("user", settings.user_column), ("domain", settings.domain_column)):
            if column in columns:
                values = batch[own]
                made[column] = [None if values[i] is None else str(values[i]) for i in origin]
        return made

    return convert
