"""A talk with a tuned model in a plain terminal: what it says appears as it is generated."""

from collections.abc import Callable, Iterable

import torch

from fedllm_app.core.errors import ConfigError
from fedllm_app.data.chat import prompt_ids
from fedllm_app.data.conversations import ASSISTANT, SYSTEM, USER, Message, NoConversationError
from fedllm_app.data.shorten import ASKED, shortened_prompt
from fedllm_app.talk.answers import device_of, generated
from fedllm_app.talk.loaded import Speaker

AGAIN, LEAVE = "/new", "/quit"


def talk(
    with_: Speaker, said: Iterable[str], write: Callable[[str], None], most: int, system: str = ""
) -> None:
    """Answer line after line until there is none, or one says /quit.

    Parameters
    ----------
    with_ : who answers.
    said : lines of the user; an empty one is passed over, /new begins another conversation.
    write : takes pieces of text as they are generated.
    most : tokens of an answer at most.
    system : message that every conversation begins with.

    Raises
    ------
    ConfigError
        If the model has no positions for an answer of that length, or its template refuses a
        message of the system.
    """
    room, first = with_.room(most), _first(with_, system)
    messages: list[Message] = list(first)
    for line in said:
        text = line.strip()
        if text == LEAVE:
            return
        if text == AGAIN:
            messages = list(first)
            write("A new conversation.\n")
        elif text:
            asked: list[Message] = [*messages, {"role": USER, "content": text}]
            try:
                asked, ids, done = shortened_prompt(with_.tokenizer, asked, room)
            except NoConversationError as error:
                write(f"({error})\n")
                continue
            if ids is None:
                write(f"(The message of the system leaves no room in {room} tokens.)\n")
                continue
            if ASKED in done:
                write(f"(Longer than {room} tokens: it lost the beginning of your question.)\n")
            answer = _say(with_, ids, write, most)
            messages = [*asked, {"role": ASSISTANT, "content": answer}]
            write("\n")


def _first(with_: Speaker, system: str) -> list[Message]:
    """Return what every conversation begins with."""
    if not system:
        return []
    first: list[Message] = [{"role": SYSTEM, "content": system}]
    try:
        prompt_ids(with_.tokenizer, [*first, {"role": USER, "content": "a"}])
    except NoConversationError as error:
        raise ConfigError(
            f"--system is {system!r}: {error}; expected none with this model, or say it in the "
            "first line"
        ) from None
    return first


def _say(with_: Speaker, ids: list[int], write: Callable[[str], None], most: int) -> str:
    from transformers import TextStreamer

    class Streamer(TextStreamer):  # type: ignore[misc]
        """Hand text on as it becomes certain."""

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            write(text)

    model, tokenizer = with_.model, with_.tokenizer
    ids_1T = torch.tensor([ids], device=device_of(model))
    streamer = Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    (text,) = generated(model, tokenizer, ids_1T, torch.ones_like(ids_1T), most, streamer)
    return text
