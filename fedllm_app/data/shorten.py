"""Bring a conversation to at most `task.max-tokens`, and keep its last response.

In this order, each only as far as it must:
1. The oldest exchanges go, whole ones; a message of the system stays.
2. What the user says last loses its beginning; a quarter of the limit is left of it.
3. The last response loses its end, and with it the mark that ends it.
Where not one token of the response is left, there is nothing to learn.

Shapes: T tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any

from fedllm_app.data.chat import Encoded, prompt_ids
from fedllm_app.data.conversations import Message, without_oldest
from fedllm_app.data.written import Span

TURNS, ASKED, RESPONSE, NOTHING = "turns", "asked", "response", "nothing"
Encode = Callable[[Sequence[Message]], Encoded]


def shortened(
    messages: Sequence[Message], one: Encoded, T: int, encode: Encode
) -> tuple[Encoded | None, set[str]]:
    """Return a conversation of at most T tokens, None if nothing is left to learn.

    Parameters
    ----------
    messages : of the conversation, the last one the assistant's.
    one : its tokens.
    T : most tokens.
    encode : returns the tokens of other messages.

    Returns
    -------
    The tokens, and what was done: some of TURNS, ASKED, RESPONSE, NOTHING.
    """
    done: set[str] = set()
    while len(one.ids) > T and (fewer := without_oldest(messages)):
        messages, one = fewer, encode(fewer)
        done.add(TURNS)
    if (over := len(one.ids) - T) > 0:
        begin, end = one.asked
        # What follows the last response in the text, such as a line break, goes first.
        over -= len(one.ids) - one.responses[-1][1]
        if (gone := min(over, end - begin - T // 4)) > 0:
            one = _without(one, begin, begin + gone)
            done.add(ASKED)
        if one.responses[-1][1] > T:
            done.add(RESPONSE)
        one = _until(one, T)
    if not any(end > begin for begin, end in one.responses):
        return None, {NOTHING}
    return one, done


def shortened_prompt(
    tokenizer: Any, messages: Sequence[Message], T: int
) -> tuple[list[Message], list[int] | None, set[str]]:
    """Return messages that are to be answered within T tokens: rules 1 and 2 for them.

    All of the question but its last words may go, since there is no response yet.

    Parameters
    ----------
    messages : the last one is the question.

    Returns
    -------
    The messages that are left; their tokens, None if there is no room for any question; and what
    was done, of TURNS and ASKED.

    Raises
    ------
    NoConversationError
        If the template refuses them.
    """
    left, ids, done = list(messages), prompt_ids(tokenizer, messages), set[str]()
    while len(ids) > T and (fewer := without_oldest(left)):
        left, ids = fewer, prompt_ids(tokenizer, fewer)
        done.add(TURNS)
    while len(ids) > T:
        said = _tail(tokenizer, left[-1]["content"], len(ids) - T)
        if not said.strip():
            return left, None, done
        left[-1] = {**left[-1], "content": said}
        ids = prompt_ids(tokenizer, left)
        done.add(ASKED)
    return left, ids, done


def _tail(tokenizer: Any, text: str, gone: int) -> str:
    """Return a text without its first tokens, and at least one character shorter."""
    places = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    starts = [begin for begin, _ in places["offset_mapping"]]
    return text[max(1, starts[gone]) :] if gone < len(starts) else ""


def _without(one: Encoded, begin: int, end: int) -> Encoded:
    """Return a conversation without some tokens, which no response holds."""
    gone = end - begin

    def moved(span: Span) -> Span:
        return (span[0] - gone, span[1] - gone) if span[0] >= end else span

    spans = tuple(moved(span) for span in one.responses)
    return Encoded(one.ids[:begin] + one.ids[end:], spans, (begin, one.asked[1] - gone))


def _until(one: Encoded, T: int) -> Encoded:
    """Return the first T tokens of a conversation."""
    spans = tuple((min(begin, T), min(end, T)) for begin, end in one.responses)
    return Encoded(one.ids[:T], spans, one.asked)
