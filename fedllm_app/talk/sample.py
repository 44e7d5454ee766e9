"""Held-out conversations that a run answers at its end, before and after training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedllm_app.core.seeds import generator
from fedllm_app.data.table import Table
from fedllm_app.talk.answers import answers
from fedllm_app.talk.scores import rouge_l, scores


@dataclass(frozen=True)
class Asked:
    """A held-out conversation up to its last response.

    Attributes
    ----------
    prompt : tokens before the response.
    reference : the response.
    question : what the user said last, without what the template writes around it.
    """

    prompt: list[int]
    reference: str
    question: str


def sample(table: Table, tokenizer: Any, count: int) -> list[Asked]:
    """Return at most so many held-out conversations, always the same ones.

    Parameters
    ----------
    table : prepared rows that are evaluated; of a packed row, its first conversation is taken.
    tokenizer : that they were prepared with.
    """
    rows = np.arange(len(table))
    if count < len(rows):
        rows = np.sort(generator("answered conversations").choice(rows, count, replace=False))
    found, asked = table[rows.tolist()], table.select_columns(["asked"])[rows.tolist()]["asked"]
    made = []
    for number in range(len(rows)):
        ids, spans = found["input_ids"][number], found["responses"][number]
        until = _first(found, number, len(ids))
        pairs = zip(spans[::2], spans[1::2], strict=True)
        begin, end = [pair for pair in pairs if pair[1] <= until][-1]
        text = tokenizer.decode(ids[begin:end], skip_special_tokens=True)
        said = tokenizer.decode(ids[slice(*asked[number][:2])], skip_special_tokens=True)
        made.append(Asked(list(ids[:begin]), text.strip(), said.strip()))
    return made


def _first(found: dict[str, list[Any]], number: int, length: int) -> int:
    """Return where the first conversation of a row ends."""
    starts = found["starts"][number] if "starts" in found else []
    return next((start for start in starts if start), length)


def answered(
    asked: Sequence[Asked], model: Any, tokenizer: Any, most: int, load: Callable[[str], None]
) -> dict[str, Any]:
    """Return scores and texts of the model before and after training.

    Parameters
    ----------
    asked : of `sample`.
    model, tokenizer, most : as in `answers`.
    load : puts the values of "before" or "after" into the model.
    """
    references = [one.reference for one in asked]
    prompts = [one.prompt for one in asked]
    said = {}
    for when in ("before", "after"):
        load(when)
        said[when] = answers(model, tokenizer, prompts, most)
    each = {when: rouge_l(texts, references) for when, texts in said.items()}
    texts = [
        {
            "asked": one.question,
            "reference": one.reference,
            **{when: said[when][i] for when in said},
            **{f"rouge-l-{when}": each[when][i] for when in said},
        }
        for i, one in enumerate(asked)
    ]
    return {**{w: scores(said[w], references, each[w]) for w in said}, "texts": texts}
