"""Bring a conversation to at most `task.max-tokens`, and keep its last response.

In this order, each only as far as it must:
1. The oldest exchanges go, whole ones; a message of the system stays.
2. What the user says last loses its beginning; a quarter of the limit is left of it.
3. The last response loses its end, and with it the mark that ends it.
Where not one token of the response is left, there is nothing to learn.

Shapes: T tokens.
"""

from collections.abc import Callable, Sequence

from fedllm_app.data.chat import Encoded
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
