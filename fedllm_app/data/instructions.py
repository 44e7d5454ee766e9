"""Prepare conversations: tokens once, and beside them which of them are responses.

Rows are as long as their conversation, or with `task.packing` of one length: several conversations
of one owner (the values of data.user-column and data.domain-column) follow each other in a row, no
conversation is cut, and what is left of a row is padding.

Shapes: T tokens of a row, at most task.max-tokens.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_app.core.errors import ConfigError, DataError
from fedllm_app.core.progress import with_progress
from fedllm_app.data.chat import Encoded, encoded, tokens
from fedllm_app.data.conversations import (
    Message,
    NoConversationError,
    Shape,
    columns_of,
    conversation,
    has_response,
    shape_of,
)
from fedllm_app.data.settings import DataSettings
from fedllm_app.data.shorten import ASKED, NOTHING, RESPONSE, TURNS, shortened
from fedllm_app.data.source import Source
from fedllm_app.data.written import rendered

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger("fedllm")
AT_ONCE = 512  # conversations that are tokenized, and rows that are written, at once
OPEN = 16  # rows of one owner that a conversation is fitted into
EMPTY, BAD = "empty", "bad"
SAID = {
    TURNS: "{} rows are longer than task.max-tokens = {T} and lost their oldest turns",
    ASKED: "{} lost the beginning of their last question",
    RESPONSE: "{} lost the end of their response",
    EMPTY: "{} without a response are left out",
    NOTHING: "{} of whose response nothing is left are left out",
    BAD: "{} that are no conversation are left out (the first is {first})",
}
Owner = tuple[str | None, str | None]  # user and domain


@dataclass
class Row:
    """Tokens of one conversation, or of several that follow each other.

    Attributes
    ----------
    owner : user and domain, None where there is no such column.
    source : number of the first row of the source that is in it.
    ids, starts, responses : tokens; where conversations begin; begin and end of each response.
    asked : begin and end of the last question of each conversation; the same where it has none.
    """

    owner: Owner
    source: int
    ids: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    responses: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)

    def add(self, ids: Sequence[int], responses: Iterable[int], asked: Iterable[int]) -> None:
        """Put a conversation behind those that are there."""
        at = len(self.ids)
        self.starts.append(at)
        self.responses += [at + place for place in responses]
        self.asked += [at + place for place in asked]
        self.ids += ids


def prepare_instructions(
    raw: "Dataset",
    source: Source,
    settings: DataSettings,
    tokenizer: Any,
    max_tokens: int,
    labels: Sequence[str] | None,
    file: Path,
    packing: bool = False,
) -> str:
    """Write `raw` as Arrow: input_ids, responses, asked, user, domain, source_row; packed, starts.

    Parameters
    ----------
    raw : rows as they are in the source.
    source : named in error messages.
    settings : names of columns, and what to do with a row that is no conversation.
    tokenizer : of transformers, with a chat template.
    max_tokens : longest row (data/shorten.py says what a longer one loses).
    labels : not read.
    file : Arrow file to write.
    packing : fill rows of max_tokens.

    Returns
    -------
    What was shortened and left out, in words.

    Raises
    ------
    ConfigError
        If the tokenizer has no chat template.
    DataError
        If the rows are of no known shape, one of them is no conversation while data.bad-rows is
        "refuse", or nothing is left to learn.
    """
    check_template(tokenizer)
    shape = shape_of(raw.column_names, settings, source)
    counts: Counter[str] = Counter()
    first: list[str] = []
    rows: Iterator[Row] = _rows(raw, source, shape, settings, tokenizer, max_tokens, counts, first)
    if packing:
        rows = _packed(rows, max_tokens)
    columns = [settings.user_column in raw.column_names, settings.domain_column in raw.column_names]
    pad = max_tokens if packing else 0
    count = _write(rows, file, tokenizer.pad_token_id or 0, pad, columns)
    said = "; ".join(
        words.format(f"{counts[key]:,}", T=max_tokens, first=first[0] if first else "")
        for key, words in SAID.items()
        if counts[key]
    )
    if not count:
        raise DataError(
            f"{source}: there is nothing to learn: {said}; expected rows with responses"
        )
    if packing:
        log.info("%s: packed into %d rows of %d tokens", source, count, max_tokens)
    return said


def check_template(tokenizer: Any) -> None:
    """Raise ConfigError if conversations cannot be written with a tokenizer."""
    if not tokenizer.chat_template:
        raise ConfigError(
            "the tokenizer has no chat template; set model.chat-template to 'plain' or 'chatml', "
            "or to the text of a template, and it is saved with the result"
        )
    if not tokenizer.is_fast:
        raise ConfigError(
            f"{type(tokenizer).__name__} does not tell which characters a token comes from; "
            "expected a model.tokenizer with a tokenizer.json"
        )


def _rows(
    raw: "Dataset",
    source: Source,
    shape: Shape,
    settings: DataSettings,
    tokenizer: Any,
    T: int,
    counts: Counter[str],
    first: list[str],
) -> Iterator[Row]:
    """Yield conversations as rows; count what is shortened and left out."""
    wanted = columns_of(shape, raw.column_names, settings)
    names = (settings.user_column, settings.domain_column)
    table = raw.select_columns(
        list(dict.fromkeys([*wanted, *(name for name in names if name in raw.column_names)]))
    )
    begins = list(range(0, len(table), AT_ONCE))

    def encode(fewer: Sequence[Message]) -> Encoded:
        return encoded(tokenizer, [fewer])[0]

    for start in with_progress(begins, "preparing conversations, once"):
        batch = table[start : start + AT_ONCE]
        numbers, talks, texts = [], [], []
        for number in range(len(batch[wanted[0]])):
            try:
                messages = conversation(
                    {name: batch[name][number] for name in wanted}, shape, settings
                )
                if not has_response(messages):
                    counts[EMPTY] += 1
                    continue
                texts.append(rendered(tokenizer, messages))
            except NoConversationError as error:
                if settings.bad_rows == "refuse":
                    raise DataError(
                        f"row {start + number} of {source}: {error}. Mend or remove it, or set "
                        'data.bad-rows = "drop"'
                    ) from None
                if not counts[BAD]:
                    first.append(f"row {start + number}: {error}")
                counts[BAD] += 1
                continue
            numbers.append(number)
            talks.append(messages)
        # All at once: a tokenizer wakes its threads for every call.
        for number, messages, one in zip(
            numbers, talks, tokens(tokenizer, talks, texts), strict=True
        ):
            kept, done = shortened(messages, one, T, encode)
            counts.update(done)
            if kept is None:
                continue
            values = [batch[name][number] if name in batch else None for name in names]
            user, domain = (None if value is None else str(value) for value in values)
            made = Row((user, domain), start + number)
            made.add(kept.ids, (place for span in kept.responses for place in span), kept.asked)
            yield made


def _packed(rows: Iterator[Row], T: int) -> Iterator[Row]:
    """Yield rows that hold several of the same owner, each as it is full, the rest at the end."""
    open_rows: dict[Owner, list[Row]] = {}
    for row in rows:
        own = open_rows.setdefault(row.owner, [])
        fits = [other for other in own if len(other.ids) + len(row.ids) <= T]
        if fits:  # where least room is left afterwards
            max(fits, key=lambda other: len(other.ids)).add(row.ids, row.responses, row.asked)
            continue
        own.append(row)
        if len(own) > OPEN:
            fullest = max(range(len(own)), key=lambda i: len(own[i].ids))
            yield own.pop(fullest)
    for own in open_rows.values():
        yield from own


def _write(rows: Iterator[Row], file: Path, pad_id: int, T: int, has: Sequence[bool]) -> int:
    """Write rows as they come, padded to T unless that is 0; return how many there were.

    Padding begins like a conversation of its own, so that it reads nothing of those before it.
    """
    import pyarrow

    numbers = pyarrow.list_(pyarrow.int32())
    fields = [
        ("input_ids", pyarrow.list_(pyarrow.int32(), T) if T else numbers),
        ("responses", numbers),
        ("asked", numbers),
        *([("starts", numbers)] if T else []),
        *([("user", pyarrow.string())] if has[0] else []),
        *([("domain", pyarrow.string())] if has[1] else []),
        ("source_row", pyarrow.int64()),
    ]
    schema, count = pyarrow.schema(fields), 0
    with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as stream:
        while held := list(islice(rows, AT_ONCE)):
            columns: dict[str, list[Any]] = {
                "input_ids": [row.ids + [pad_id] * max(0, T - len(row.ids)) for row in held],
                "responses": [row.responses for row in held],
                "asked": [row.asked for row in held],
                "starts": [row.starts + [len(row.ids)] * (len(row.ids) < T) for row in held],
                "user": [row.owner[0] for row in held],
                "domain": [row.owner[1] for row in held],
                "source_row": [row.source for row in held],
            }
            arrays = [pyarrow.array(columns[name], kind) for name, kind in fields]
            stream.write_batch(pyarrow.record_batch(arrays, schema=schema))
            count += len(held)
    return count
