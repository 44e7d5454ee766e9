"""What is wrong with how clients go through their examples; one sentence for each."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedllm_app.client.settings import STREAM
from fedllm_app.tasks.base import TaskKind

if TYPE_CHECKING:
    from fedllm_app.config import RunConfig


def of_reading(c: "RunConfig", kind: TaskKind) -> Iterator[str]:
    """Yield what is wrong between a task, its rows, and how a client reads them."""
    automatic = "" if c.client.reading else f", as task.name = {c.task.name!r} has it"
    if c.reading == STREAM and not c.client.steps:
        yield (
            f"client.steps is 0 with client.reading = 'stream'{automatic}; expected the local "
            "steps of a round (H), such as 64"
        )
    if c.reading != STREAM and c.client.stream_end != "stop":
        yield (
            f"client.stream-end is {c.client.stream_end!r} with client.reading = 'epochs'; "
            "expected 'stop', or client.reading = 'stream'"
        )
    if not kind.packed and c.data.documents != "apart":
        yield (
            f"data.documents is {c.data.documents!r}, which task.name = {c.task.name!r} does not "
            "read; expected 'apart', or a task with packed rows (pretraining)"
        )
