"""Pack documents into rows of equal length, once: a stream of tokens that is never padded.

The documents of one owner (a value of data.user-column, where there is such a column) follow each
other, and are cut into rows wherever a row ends. What is left of each owner at the end is less than
a row, and is left out. Beside its tokens a row has the offsets at which documents begin in it, so
that attention can stay inside a document.

Shapes: T tokens of a row.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedllm_app.core.errors import DataError
from fedllm_app.core.progress import with_progress
from fedllm_app.data.documents import documents, end_token
from fedllm_app.data.settings import DataSettings
from fedllm_app.data.source import Source, require_column
from fedllm_app.data.text import stripped, tokens_of

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger("fedllm")
TEXTS = 512  # most that are tokenized at once
CHARACTERS = 1 << 20  # about how many are tokenized at once, so that memory is bounded
ROWS = 1024  # that are written at once
JOINED = "joined"
# Tokens, offsets at which documents begin, owner, and the text that the first token is of.
Row = tuple[np.ndarray, list[int], str | None, int]


@dataclass
class Packer:
    """Rows of one owner, as they fill.

    Attributes
    ----------
    T : tokens of a row.
    tokens : of the row that is not full yet.
    starts : offsets in it at which documents begin.
    source : the text that its first token is of.
    """

    T: int
    tokens: list[np.ndarray] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    source: int = -1
    size: int = 0

    def add(self, document: np.ndarray, source: int) -> Iterator[tuple[np.ndarray, list[int], int]]:
        """Take a document; yield each row that it fills: tokens, starts, source."""
        at = 0
        if document.size:
            self.starts.append(self.size)
        while at < document.size:
            if not self.size:
                self.source = source
            part = document[at : at + self.T - self.size]
            self.tokens.append(part)
            self.size += part.size
            at += part.size
            if self.size == self.T:
                yield np.concatenate(self.tokens), self.starts, self.source
                self.tokens, self.starts, self.size = [], [], 0


def prepare_packed(
    raw: "Dataset",
    source: Source,
    settings: DataSettings,
    tokenizer: Any,
    max_tokens: int,
    labels: Sequence[str] | None,
    file: Path,
) -> str:
    """Write `raw` as Arrow rows with columns input_ids, starts, user, source_row.

    Memory does not grow with the text: rows are written as they fill.

    Parameters
    ----------
    raw : rows as they are in the source.
    source : named in error messages.
    settings : columns, strip, and whether documents are kept apart.
    tokenizer : of transformers.
    max_tokens : T.
    labels : not read.
    file : Arrow file to write.

    Returns
    -------
    What was left out, in words: the rest of each owner that fills no row.

    Raises
    ------
    DataError
        If the text column is missing, or no owner's text fills a row.
    """
    require_column(raw, "data.text-column", settings.text_column, source)
    owned = settings.user_column in raw.column_names
    wide = len(tokenizer) > np.iinfo(np.uint16).max
    packers: dict[str, Packer] = {}
    rows = _packed(raw, settings, tokenizer, max_tokens, packers)
    count = _write(rows, file, max_tokens, wide, owned)
    left = sum(packer.size for packer in packers.values())
    if not count:
        raise DataError(
            f"{source} fills no row of task.max-tokens = {max_tokens}: there are {left:,} tokens; "
            "expected more text, or a smaller task.max-tokens"
        )
    log.info("%s: packed into %d rows of %d tokens", source, count, max_tokens)
    of = f", the last of {len(packers):,} sources" if owned else " at the end"
    return f"{left:,} tokens that fill no row{of}" if left else ""


def _packed(
    raw: "Dataset", settings: DataSettings, tokenizer: Any, T: int, packers: dict[str, Packer]
) -> Iterator[Row]:
    """Yield rows as they fill; `packers`, by owner, then hold what is left."""
    text, user = settings.text_column, settings.user_column
    owned = user in raw.column_names
    end, apart = end_token(tokenizer), settings.documents != JOINED
    rows = raw.select_columns([text, user] if owned else [text])
    for start, stop in with_progress(_pieces(rows, text), "packing the text, once"):
        batch = rows[start:stop]
        texts = stripped(batch[text], settings)
        owners = batch[user] if owned else [None] * len(texts)
        ids = documents(texts, tokens_of(texts, tokenizer), end)
        for number, (owner, document) in enumerate(zip(owners, ids, strict=True)):
            name = None if owner is None else str(owner)
            packer = packers.setdefault(name or "", Packer(T))
            for row, begins, first in packer.add(np.asarray(document), start + number):
                yield row, begins if apart else [], name, first


def _pieces(rows: "Dataset", text: str) -> list[tuple[int, int]]:
    """Return begin and end of rows whose texts are tokenized at once.

    Of the texts no more than `TEXTS` rows are held, whatever there is.
    """
    from pyarrow import compute

    table = rows.select_columns([text]).with_format("arrow")
    ends, before = [0], 0
    for start in range(0, len(table), TEXTS):
        length = compute.utf8_length(table[start : start + TEXTS].column(text))
        size_N: NDArray[np.int64] = np.asarray(length.to_numpy(), np.int64)
        to_N = before + np.cumsum(size_N)
        ends += (start + 1 + np.flatnonzero(np.diff(to_N // CHARACTERS))).tolist()
        ends.append(start + len(size_N))
        before = int(to_N[-1])
    return list(pairwise(ends))


def _write(rows: Iterator[Row], file: Path, T: int, wide: bool, owned: bool) -> int:
    """Write rows as they come, and return how many there were."""
    import pyarrow

    token, count = pyarrow.int32() if wide else pyarrow.uint16(), 0
    fields = [
        ("input_ids", pyarrow.list_(token, T)),
        ("starts", pyarrow.list_(pyarrow.int32())),
        *([("user", pyarrow.string())] if owned else []),
        ("source_row", pyarrow.int64()),
    ]
    schema = pyarrow.schema(fields)
    with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as stream:
        while held := list(islice(rows, ROWS)):
            ids, starts, users, first = zip(*held, strict=True)
            flat = np.concatenate(ids).astype(np.int32 if wide else np.uint16)
            columns: list[pyarrow.Array] = [
                pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(flat), T),
                pyarrow.array(starts, pyarrow.list_(pyarrow.int32())),
                *([pyarrow.array(users, pyarrow.string())] if owned else []),
                pyarrow.array(first, pyarrow.int64()),
            ]
            stream.write_batch(pyarrow.record_batch(columns, schema=schema))
            count += len(held)
    return count
