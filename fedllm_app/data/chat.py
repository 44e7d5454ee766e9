"""A conversation as tokens, by the chat template of a tokenizer, and which of them are learned.

What is learned is what a model has to write by itself: each response of the assistant, with the
mark that ends it. Nothing is counted in tokens of parts: a template may add a message, drop white
space or write an end mark behind the last turn alone, and each would shift such a count. Instead
every message is replaced by a mark that no text holds, so that the rendered text shows where each
one stands; the text with the real messages must be the same around them. Where a template reads
what it writes (some cut an answer at a tag), marks do not do, and a response is looked for behind
what the template writes to ask for it. Tokens are then told by the characters that they come from.

Shapes: T tokens of a conversation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedllm_app.core.errors import first_line
from fedllm_app.data.conversations import ASSISTANT, Message, NoConversationError

Span = tuple[int, int]  # begin and end; of characters or of tokens


@dataclass(frozen=True)
class Rendered:
    """A conversation as text.

    Attributes
    ----------
    text : the whole.
    contents : characters of each message's content; None of one that the template leaves out.
    begins : of each response, where the model begins to write.
    ends : of each response, behind all that the template writes to end it.
    """

    text: str
    contents: tuple[Span | None, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]


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


def rendered(tokenizer: Any, messages: Sequence[Message]) -> Rendered:
    """Return a conversation as the tokenizer's template writes it.

    Raises
    ------
    NoConversationError
        If the template refuses it, or changes what a response says.
    """
    text = _render(tokenizer, messages)
    contents = _by_marks(tokenizer, messages, text)
    begins, ends = [], []
    for i, message in enumerate(messages):
        if message["role"] != ASSISTANT:
            continue
        prompt = _tried(tokenizer, messages[:i], True)
        asked = text.startswith(prompt) if prompt is not None else False
        span = contents[i] if contents else None
        if span is None:
            said = message["content"].strip()
            at = text.find(said, len(prompt or "")) if asked else -1
            if at < 0:
                raise NoConversationError(
                    f"the chat template changes message {i}, so that what is learned cannot be told"
                )
            span = at, at + len(said)
            contents = contents or [None] * len(messages)
            contents[i] = span
        before = contents[i - 1] if contents and i else None
        begins.append(_begin(prompt or "", text, before, span))
        ends.append(_end(tokenizer, messages, i, text, span))
    return Rendered(text, tuple(contents or [None] * len(messages)), tuple(begins), tuple(ends))


def encoded(tokenizer: Any, conversations: Sequence[Sequence[Message]]) -> list[Encoded]:
    """Return conversations as tokens.

    Raises
    ------
    NoConversationError
        As `rendered`; check one at a time to know which it is.
    """
    texts = [rendered(tokenizer, messages) for messages in conversations]
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
    text = _render(tokenizer, messages, True)
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
        begin, end = _overlapping(starts, stops, one.begins[number], span[1])
        last = _overlapping(starts, stops, span[1], one.ends[number])[1]
        mark = next((at for at in range(end, last) if ids[at] in marks), last - 1)
        spans.append((begin, max(end, mark + 1)))
        number += 1
        if i < len(messages) - 1:
            asked = (0, 0)
    return Encoded(list(ids), tuple(spans), asked)


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


def _begin(prompt: str, text: str, before: Span | None, span: Span) -> int:
    """Return the character behind what the template writes to ask for a response.

    Where a template begins another text for a shorter conversation, it is told by what comes behind
    the message before.
    """
    if text.startswith(prompt) and len(prompt) <= span[0]:
        return len(prompt)
    if before is not None and before[1] <= span[0]:
        said, between = text[slice(*before)], text[before[1] : span[0]]
        tail = prompt[prompt.rfind(said) + len(said) :]
        if said in prompt and between.startswith(tail):
            return before[1] + len(tail)
    return span[0]


def _end(tokenizer: Any, messages: Sequence[Message], i: int, text: str, span: Span) -> int:
    """Return the character behind what the template writes after a response to end it.

    It is what the whole conversation and the one that ends here have in common.
    """
    if i == len(messages) - 1:
        return len(text)
    until = _tried(tokenizer, messages[: i + 1], False)
    if until is None:
        return span[1]
    tail = until[until.rfind(text[span[0] : span[1]]) + span[1] - span[0] :]
    same = 0
    while same < len(tail) and text[span[1] + same : span[1] + same + 1] == tail[same]:
        same += 1
    return span[1] + same


def _by_marks(tokenizer: Any, messages: Sequence[Message], text: str) -> list[Span | None] | None:
    """Return where each message stands in the text, None if marks do not tell it."""
    marks = [f"\ue000{i}\ue001" for i in range(len(messages))]
    put = [{**m, "content": mark} for m, mark in zip(messages, marks, strict=True)]
    marked = _tried(tokenizer, put, False)
    if marked is None or any(marked.count(mark) > 1 for mark in marks):
        return None
    order = sorted((marked.find(mark), i) for i, mark in enumerate(marks) if mark in marked)
    found: list[Span | None] = [None] * len(messages)
    at = order[0][0] if order else len(marked)
    if text[:at] != marked[:at]:
        return None
    for number, (place, i) in enumerate(order):
        after = place + len(marks[i])
        last = number == len(order) - 1
        between = marked[after:] if last else marked[after : order[number + 1][0]]
        said = messages[i]["content"]
        for form in (said, said.strip(), said.rstrip(), said.lstrip()):
            if text.startswith(form + between, at):
                break
        else:
            return None
        found[i] = at, at + len(form)
        at += len(form) + len(between)
    return found if at == len(text) else None


def _render(tokenizer: Any, messages: Sequence[Message], prompt: bool = False) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=prompt
            )
        )
    except Exception as error:  # a template is somebody's code
        raise NoConversationError(f"the chat template refuses it: {first_line(error)}") from error


def _tried(tokenizer: Any, messages: Sequence[Message], prompt: bool) -> str | None:
    """Return a rendered text, None where the template refuses these messages."""
    if not messages:
        return ""
    try:
        return _render(tokenizer, messages, prompt)
    except NoConversationError:
        return None
