"""A talk with a tuned model in a plain terminal: what it says appears as it is generated."""

from collections.abc import Callable, Iterable

import torch

from fedllm_app.data.chat import prompt_ids
from fedllm_app.data.conversations import Message, without_oldest
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
    """
    first = [{"role": "system", "content": system}] if system else []
    messages: list[Message] = list(first)
    for line in said:
        text = line.strip()
        if text == LEAVE:
            return
        if text == AGAIN:
            messages = list(first)
            write("A new conversation.\n")
        elif text:
            messages.append({"role": "user", "content": text})
            messages = _fitting(with_, messages, most)
            messages.append({"role": "assistant", "content": _say(with_, messages, write, most)})
            write("\n")


def _fitting(with_: Speaker, messages: list[Message], most: int) -> list[Message]:
    """Return the conversation without its oldest turns, if it is longer than the model reads."""
    while len(prompt_ids(with_.tokenizer, messages)) + most > with_.positions:
        fewer = without_oldest(messages)
        if not fewer:
            break
        messages = fewer
    return messages


def _say(with_: Speaker, messages: list[Message], write: Callable[[str], None], most: int) -> str:
    from transformers import TextStreamer

    class Streamer(TextStreamer):  # type: ignore[misc]
        """Hand text on as it becomes certain."""

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            write(text)

    model, tokenizer = with_.model, with_.tokenizer
    ids_1T = torch.tensor([prompt_ids(tokenizer, messages)], device=device_of(model))
    streamer = Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    (text,) = generated(model, tokenizer, ids_1T, torch.ones_like(ids_1T), most, streamer)
    return text
