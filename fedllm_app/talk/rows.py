"""Answer every row of a file, of the same shapes that the task `instruction` takes."""

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedllm_app.core.errors import ConfigError, DataError
from fedllm_app.core.files import replacing
from fedllm_app.data.conversations import (
    ASSISTANT,
    USER,
    Message,
    NoConversationError,
    Shape,
    columns_of,
    conversation,
)
from fedllm_app.data.settings import DataSettings
from fedllm_app.data.shorten import shortened_prompt
from fedllm_app.data.source import Source
from fedllm_app.talk.answers import answers
from fedllm_app.talk.loaded import Speaker
from fedllm_app.talk.scores import scores

log = logging.getLogger("fedllm")


def answer_file(with_: Speaker, file: Path, out: Path, most: int) -> dict[str, float]:
    """Write a .jsonl file with the rows of another and an `answer` in each; return the scores.

    Parameters
    ----------
    with_ : who answers; the columns are those of its run.
    file : .parquet, .jsonl, .json, .csv or .tsv; rows may lack the response, which is then not
        scored.
    out : .jsonl file to write.
    most : tokens of an answer at most.

    Raises
    ------
    DataError
        If the file cannot be read, or a row is no conversation, is refused by the chat template,
        or leaves no room for its question.
    ConfigError
        If the model has no positions for an answer of that length.
    """
    settings = _settings(with_.settings)
    source = Source("FILE", str(file.resolve()), settings=settings)
    with tempfile.TemporaryDirectory() as scratch:
        raw = source.load("instruction", Path(scratch), Path(scratch))
        if raw is None:
            raise DataError(f"{source} holds no rows")
        rows = [raw.rows[i] for i in range(len(raw.rows))]
    asked = [_asked(row, settings, number, source) for number, row in enumerate(rows)]
    prompts = _prompts(with_, [messages for messages, _ in asked], with_.room(most), source)
    said = answers(with_.model, with_.tokenizer, prompts, most)
    with replacing(out) as written:
        for row, answer in zip(rows, said, strict=True):
            text = json.dumps({**row, "answer": answer}, ensure_ascii=False, default=str)
            written.write(text.encode() + b"\n")
    known = [(a, r) for a, (_, r) in zip(said, asked, strict=True) if r is not None]
    return scores([a for a, _ in known], [r for _, r in known])


def _prompts(
    with_: Speaker, asked: Sequence[Sequence[Message]], room: int, source: Source
) -> list[list[int]]:
    """Return the tokens of messages that are to be answered, of at most so many each."""
    prompts, cut = [], 0
    for number, messages in enumerate(asked):
        try:
            _, ids, done = shortened_prompt(with_.tokenizer, messages, room)
        except NoConversationError as error:
            raise DataError(f"row {number} of {source}: {error}") from None
        if ids is None:
            raise DataError(
                f"row {number} of {source}: what comes before the question leaves no room for it "
                f"in {room} tokens; expected a lower --max-tokens, or a shorter row"
            )
        prompts.append(ids)
        cut += bool(done)
    if cut:
        log.warning(
            "%d of %d rows are longer than the model reads in front of an answer (%d tokens): "
            "they lost their oldest turns, then the beginning of the question",
            cut, len(asked), room,
        )  # fmt: skip
    return prompts


def _settings(run: Mapping[str, Any]) -> DataSettings:
    names = ("instruction-column", "input-column", "response-column")
    known = {n.replace("-", "_"): run[f"data.{n}"] for n in names if f"data.{n}" in run}
    return DataSettings(**known)


def _asked(
    row: Mapping[str, Any], settings: DataSettings, number: int, source: Source
) -> tuple[list[Message], str | None]:
    """Return the messages that are to be answered, and the reference, None if there is none."""
    filled = dict(row)
    answer = settings.response_column
    shape: Shape
    if "messages" in row:
        shape, given = "messages", True
    elif "prompt" in row:
        shape, given = "prompt-completion", bool(row.get("completion"))
        filled["completion"] = row.get("completion") or "?"
    elif settings.instruction_column in row:
        shape, given = "columns", bool(row.get(answer))
        filled[answer] = row.get(answer) or "?"
    else:
        raise ConfigError(
            f"{source} has the columns {list(row)}; expected messages, prompt, or "
            f"{settings.instruction_column!r} (data.instruction-column of the run)"
        )
    try:
        if shape == "messages" and row["messages"] and row["messages"][-1]["role"] == USER:
            last = [*row["messages"], {"role": ASSISTANT, "content": "?"}]
            filled["messages"], given = last, False
        columns = columns_of(shape, list(filled), settings)
        found = conversation({c: filled[c] for c in columns}, shape, settings)
        if len(found) < 2:
            raise NoConversationError("nobody asks anything")
    except (NoConversationError, KeyError, TypeError) as error:
        raise DataError(f"row {number} of {source}: {error}") from None
    return found[:-1], found[-1]["content"] if given else None
