"""What a device measured, as Flower's records: one JSON string of sums.

The question is a request like that of a job, under another type of message.
"""

from collections.abc import Sequence
from dataclasses import asdict

from flwr.app import RecordDict
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedllm_app.core.errors import WireError
from fedllm_app.core.job import Measurement, Reason
from fedllm_app.flower.message import (
    VERSION,
    Message,
    in_a_line,
    last_line,
    records_of,
    words_of,
)


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Found:
    """What one client measured, or why it did not."""

    client: str
    sums: dict[str, int | float | list[int]]
    error: str
    reason: Reason


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class FoundHeader:
    """The words of an answer."""

    version: int
    found: list[Found]


HEADER = TypeAdapter(FoundHeader)


def pack_measurements(measurements: Sequence[Measurement]) -> RecordDict:
    """Return the answer to one message as records."""
    return records_of({"version": VERSION, "found": [asdict(one) for one in measurements]}, None)


def read_measurement(message: Message | None, client: str) -> Measurement:
    """Return what a client measured, whatever the message says: it is hostile."""
    if message is None:
        why = "its reply is no message of Flower's"
        return Measurement(client, error=why, reason="malformed")
    if message.has_error():
        return Measurement(client, error=last_line(message.error.reason))
    try:
        words = HEADER.validate_json(words_of(message.content))
        if words.version != VERSION:
            raise WireError(f"answer version is {words.version}; expected {VERSION}")
        if [one.client for one in words.found] != [client]:
            raise WireError("it answers for others; expected its own client alone")
    except (ValidationError, WireError) as error:
        why = f"not an answer to a question: {in_a_line(str(error))}"
        return Measurement(client, error=why, reason="malformed")
    (one,) = words.found
    return Measurement(client, one.sums, in_a_line(one.error), one.reason)
