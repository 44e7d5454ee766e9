"""A conversation as text, by the chat template of a tokenizer: where each message stands in it.

Nothing is counted in parts: a template may add a message, drop white space or write an end mark
behind the last turn alone, and each would shift such a count. Instead every message is replaced by
a mark that no text holds, so that the rendered text shows what the template writes around messages
of these roles; the text with the real messages must be the same around them. Where a template reads
what it writes (some cut an answer at a tag), marks do not do, and a response is looked for behind
what the template writes to ask for it.
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
class Frame:
    """What a template writes around the messages of conversations with the same roles.

    Attributes
    ----------
    order : which message stands first, second and so on; one that is left out is missing.
    between : text before the first of them, between them, and behind the last.
    leads, closes : of each response, characters before it that the model writes, and behind it
        that end it; 0 for other messages.
    """

    order: tuple[int, ...]
    between: tuple[str, ...]
    leads: tuple[int, ...]
    closes: tuple[int, ...]


_FRAMES: dict[tuple[object, ...], Frame | None] = {}
MOST_FRAMES = 512


def rendered(tokenizer: Any, messages: Sequence[Message]) -> Rendered:
    """Return a conversation as the tokenizer's template writes it.

    Raises
    ------
    NoConversationError
        If the template refuses it, or changes what a response says.
    """
    text = render(tokenizer, messages)
    frame = _frame(tokenizer, tuple(message["role"] for message in messages))
    spans = None if frame is None else _placed(frame, messages, text)
    if frame is None or spans is None:
        return _searched(tokenizer, messages, text)
    begins, ends = [], []
    for i, span in enumerate(spans):
        if messages[i]["role"] == ASSISTANT and span is not None:
            begins.append(span[0] - frame.leads[i])
            ends.append(span[1] + frame.closes[i])
    return Rendered(text, spans, tuple(begins), tuple(ends))


def _searched(tokenizer: Any, messages: Sequence[Message], text: str) -> Rendered:
    """Return where responses stand that a template changes things around: each is looked for."""
    contents: list[Span | None] = [None] * len(messages)
    begins, ends = [], []
    for i, message in enumerate(messages):
        if message["role"] != ASSISTANT:
            continue
        prompt = _tried(tokenizer, messages[:i], True)
        said = message["content"].strip()
        question = messages[i - 1]["content"].strip() if i else ""
        if question and (found := (prompt or "").rfind(question)) >= 0:
            contents[i - 1] = found, found + len(question)
        asked = prompt is not None and text.startswith(prompt)
        at = text.find(said, len(prompt or "")) if asked else -1
        if at < 0:
            raise NoConversationError(
                f"the chat template changes message {i}, so that what is learned cannot be told"
            )
        contents[i] = span = at, at + len(said)
        begins.append(len(prompt or ""))
        ends.append(_end(tokenizer, messages, i, text, span))
    return Rendered(text, tuple(contents), tuple(begins), tuple(ends))


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


def _frame(tokenizer: Any, roles: tuple[str, ...]) -> Frame | None:
    """Return what the template writes around messages of these roles, None if marks do not tell."""
    key = tokenizer.chat_template, str(tokenizer.special_tokens_map), roles
    if key not in _FRAMES:
        if len(_FRAMES) >= MOST_FRAMES:
            _FRAMES.clear()
        _FRAMES[key] = _made_frame(tokenizer, roles)
    return _FRAMES[key]


def _made_frame(tokenizer: Any, roles: tuple[str, ...]) -> Frame | None:
    marks = [f"\ue000{i}\ue001" for i in range(len(roles))]
    put = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
    marked = _tried(tokenizer, put, False)
    if marked is None or any(marked.count(mark) > 1 for mark in marks):
        return None
    places = {i: marked.find(mark) for i, mark in enumerate(marks) if mark in marked}
    if any(role == ASSISTANT and i not in places for i, role in enumerate(roles)):
        return None
    order = sorted(places, key=lambda i: places[i])
    ends = [0, *(places[i] + len(marks[i]) for i in order)]
    starts = [*(places[i] for i in order), len(marked)]
    spans = {i: (places[i], places[i] + len(marks[i])) for i in places}
    leads, closes = [0] * len(roles), [0] * len(roles)
    for i, role in enumerate(roles):
        if role == ASSISTANT:
            prompt = _tried(tokenizer, put[:i], True) or ""
            begin = _begin(prompt, marked, spans.get(i - 1), spans[i])
            leads[i] = spans[i][0] - begin
            closes[i] = _end(tokenizer, put, i, marked, spans[i]) - spans[i][1]
    between = (marked[end:start] for end, start in zip(ends, starts, strict=True))
    return Frame(tuple(order), tuple(between), tuple(leads), tuple(closes))


def _placed(frame: Frame, messages: Sequence[Message], text: str) -> tuple[Span | None, ...] | None:
    """Return where each message stands in the text, None if it is not what the frame says."""
    found: list[Span | None] = [None] * len(messages)
    at = len(frame.between[0])
    if text[:at] != frame.between[0]:
        return None
    for i, behind in zip(frame.order, frame.between[1:], strict=True):
        said = messages[i]["content"]
        for form in (said, said.strip(), said.rstrip(), said.lstrip()):
            if text.startswith(form + behind, at):
                break
        else:
            return None
        found[i] = at, at + len(form)
        at += len(form) + len(behind)
    return tuple(found) if at == len(text) else None


def render(tokenizer: Any, messages: Sequence[Message], prompt: bool = False) -> str:
    """Return the text of messages; `prompt` adds what asks for a response.

    Raises
    ------
    NoConversationError
        If the template refuses them.
    """
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
        return render(tokenizer, messages, prompt)
    except NoConversationError:
        return None
