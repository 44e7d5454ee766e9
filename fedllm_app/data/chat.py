"""A conversation as tokens, by the chat template of a tokenizer, and which of them are learned.

What is learned is what a model has to write by itself: each response of the assistant, with the
mark that ends it. Tokens are told by the characters that they come from, and data/written.py tells
which characters are a response.

Shapes: T tokens of a conversation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedllm_app.data.conversations import ASSISTANT, Message, NoConversationError
from fedllm_app.data.written import Rendered, Span, render, rendered


@dataclass(frozen=True)
class Encoded:
    """A conversation as tokens.

    Attributes
    ----------
    ids : T tokens.
    responses : tokens that are learned, a begin and an end for each response.
    asked : tokens of the last message before the last response, an empty span if there is none.
    """

    ids: list[int]
    responses: tuple[Span, ...]
    asked: Span


def encoded(tokenizer: Any, conversations: Sequence[Sequence[Message]]) -> list[Encoded]:
    """Return conversations as tokens.

    Raises
    ------
    NoConversationError
        As `rendered`; check one at a time to know which it is.
    """
    return tokens(
        tokenizer, conversations, [rendered(tokenizer, messages) for messages in conversations]
    )


def tokens(
    tokenizer: Any, conversations: Sequence[Sequence[Message]], texts: Sequence[Rendered]
) -> list[Encoded]:
    """Return conversations that are rendered already as tokens."""
    if not texts:
        return []
    found = tokenizer(
        [one.text for one in texts],
        add_special_tokens=False,  # the template writes them
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    marks = end_marks(tokenizer)
    return [
        _located(ids, offsets, one, messages, marks)
        for ids, offsets, one, messages in zip(
            found["input_ids"], found["offset_mapping"], texts, conversations, strict=True
        )
    ]


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Return the tokens after which the model is to answer.

    Raises
    ------
    NoConversationError
        If the template refuses the conversation.
    """
    text = render(tokenizer, messages, True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def end_marks(tokenizer: Any) -> frozenset[int]:
    """Return the tokens that stand for no text, of which the first after a response ends it."""
    return frozenset(tokenizer.all_special_ids) | frozenset(tokenizer.added_tokens_decoder)


def stop_ids(tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer: the end token, and what the template ends one with."""
    found = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    asked = [{"role": "user", "content": "a"}, {"role": ASSISTANT, "content": "b"}]
    try:
        (one,) = encoded(tokenizer, [asked])
    except NoConversationError:
        return found
    begin, end = one.responses[-1]
    last = one.ids[end - 1] if end > begin else None
    if last in end_marks(tokenizer) and last not in found:
        found.append(last)
    return found


def _located(
    ids: Sequence[int],
    offsets: Sequence[Span],
    one: Rendered,
    messages: Sequence[Message],
    marks: frozenset[int],
) -> Encoded:
    """Tell by their characters which tokens are learned."""
    starts, stops = [o[0] for o in offsets], [o[1] for o in offsets]
    spans, asked, number = [], (0, 0), 0
    for i, message in enumerate(messages):
        span = one.contents[i]
        if message["role"] != ASSISTANT:
            asked = (0, 0) if span is None else _inside(starts, stops, *span)
            continue
        assert span is not None
        begin, end = _begun(starts, stops, one.begins[number], span[1])
        # A mark may hold white space beside it: this one may be in the response already.
        closes, last = _overlapping(starts, stops, span[1], one.ends[number])
        mark = next((at for at in range(closes, last) if ids[at] in marks), last - 1)
        spans.append((begin, max(begin, end, mark + 1)))
        number += 1
        if i < len(messages) - 1:
            asked = (0, 0)
    return Encoded(list(ids), tuple(spans), asked)


def _begun(starts: Sequence[int], stops: Sequence[int], begin: int, end: int) -> Span:
    """Return the tokens that begin in [begin, end).

    One that begins before holds a part of what asks for the response, as Phi-3's `<|assistant|>`
    holds all white space behind it: the model is given that one, and does not write it.
    """
    first, after = _overlapping(starts, stops, begin, end)
    while first < after and starts[first] < begin:
        first += 1
    return first, after


def _overlapping(starts: Sequence[int], stops: Sequence[int], begin: int, end: int) -> Span:
    """Return the tokens with a character in [begin, end), an empty span behind begin if none."""
    first = next((t for t, stop in enumerate(stops) if stop > begin), len(stops))
    after = next((t for t in range(first, len(starts)) if starts[t] >= end), len(starts))
    return first, max(first, after)


def _inside(starts: Sequence[int], stops: Sequence[int], begin: int, end: int) -> Span:
    """Return the tokens with no character outside [begin, end)."""
    first = next((t for t, start in enumerate(starts) if start >= begin), len(starts))
    after = next((t for t in range(first, len(stops)) if stops[t] > end), len(stops))
    return first, max(first, after)
