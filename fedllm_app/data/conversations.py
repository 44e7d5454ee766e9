"""Rows of instruction data as conversations: lists of messages with a role and a content.

Three shapes are known, those that trl's SFTTrainer takes and the columns of instruction sets. They
are told by their columns, in this order: `messages`; `prompt` and `completion`, as texts or as
messages; and the columns that data.instruction-column, data.input-column and data.response-column
name.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from fedllm_app.core.errors import DataError
from fedllm_app.data.settings import DataSettings

if TYPE_CHECKING:
    from fedllm_app.data.source import Source

Message = dict[str, str]
Shape = Literal["messages", "prompt-completion", "columns"]
SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"
ROLES = (SYSTEM, USER, ASSISTANT, TOOL)


class NoConversationError(DataError):
    """A row is no conversation; the message says why, and whoever knows the row names it."""


def shape_of(columns: Sequence[str], settings: DataSettings, source: "Source") -> Shape:
    """Return which shape rows with these columns have.

    Raises
    ------
    DataError
        If it is none that is known; the message has those that are, and the columns.
    """
    if "messages" in columns:
        return "messages"
    if "prompt" in columns and "completion" in columns:
        return "prompt-completion"
    asked, answer = settings.instruction_column, settings.response_column
    if asked in columns and answer in columns:
        return "columns"
    raise DataError(
        f"{source} has the columns {list(columns)}, which are no instructions; expected one of: "
        "messages (each with role and content); prompt and completion; or "
        f"{asked!r} and {answer!r}, with {settings.input_column!r} where there is such "
        "(data.instruction-column, data.response-column and data.input-column name them)"
    )


def columns_of(shape: Shape, columns: Sequence[str], settings: DataSettings) -> list[str]:
    """Return the columns that a shape is read from."""
    if shape == "messages":
        return ["messages"]
    if shape == "prompt-completion":
        return ["prompt", "completion"]
    named = (settings.instruction_column, settings.input_column, settings.response_column)
    return [name for name in named if name in columns]


def conversation(row: Mapping[str, Any], shape: Shape, settings: DataSettings) -> list[Message]:
    """Return the messages of a row, the last one a response of the assistant.

    What follows the last response that says anything is left out: nothing is learned from it. A
    response that is missing (None) is one that says nothing.

    Raises
    ------
    NoConversationError
        If the row is not of its shape.
    """
    if shape == "messages":
        found = _messages(row["messages"], "messages")
    elif shape == "prompt-completion":
        found = _side(row["prompt"], "prompt", USER)
        found += _side(row["completion"], "completion", ASSISTANT)
    else:
        asked = _text(row[settings.instruction_column], settings.instruction_column)
        about = row.get(settings.input_column)
        about = "" if about is None else _text(about, settings.input_column)
        answer = row[settings.response_column]
        answer = "" if answer is None else _text(answer, settings.response_column)
        both = "\n\n".join(part for part in (asked, about) if part.strip())
        found = [
            {"role": USER, "content": both},
            {"role": ASSISTANT, "content": answer},
        ]
    while found and not (found[-1]["role"] == ASSISTANT and found[-1]["content"].strip()):
        found.pop()
    return found


def has_response(messages: Sequence[Message]) -> bool:
    """Return whether an assistant says anything in a conversation."""
    return any(m["role"] == ASSISTANT and m["content"].strip() for m in messages)


def without_oldest(messages: Sequence[Message]) -> list[Message]:
    """Return a conversation without its oldest exchange, [] if one exchange is all there is.

    An exchange is what a user says and all that follows until the user speaks again; what comes
    before the first one, such as a message of the system, stays.
    """
    asks = [i for i, message in enumerate(messages) if message["role"] == USER]
    if len(asks) < 2:
        return []
    before = [m for m in messages[: asks[0]] if m["role"] == SYSTEM]
    return [*before, *messages[asks[1] :]]


def _side(value: Any, name: str, role: str) -> list[Message]:
    """Return the messages of a prompt or a completion; a text is one message, and no text none."""
    if value is None and role == ASSISTANT:
        return []
    return [{"role": role, "content": value}] if isinstance(value, str) else _messages(value, name)


def _messages(value: Any, name: str) -> list[Message]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise NoConversationError(f"{name} is {_short(value)}, which is no list of messages")
    made = []
    for number, message in enumerate(value):
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise NoConversationError(
                f"message {number} of {name} is {_short(message)}; expected role and content"
            )
        if message["role"] not in ROLES:
            raise NoConversationError(
                f"message {number} of {name} has the role {message['role']!r}; expected one of "
                f"{', '.join(ROLES)}"
            )
        content = message["content"]
        if content is not None or message["role"] != ASSISTANT:
            content = _text(content, f"the content of message {number} of {name}")
        made.append({"role": str(message["role"]), "content": content or ""})
    return made


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise NoConversationError(f"{name} is {_short(value)}; expected text")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
