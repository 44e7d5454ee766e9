"""What is wrong with how clients go through their examples; one sentence for each."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedllm_app.client.settings import STREAM
from fedllm_app.data.settings import NODE
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
    if (not kind.packed or kind.whole_rows) and c.data.documents != "apart":
        yield (
            f"data.documents is {c.data.documents!r}, which task.name = {c.task.name!r} does not "
            "read; expected 'apart', or a task with packed rows (pretraining)"
        )


def of_measured(c: "RunConfig", kind: TaskKind) -> Iterator[str]:
    """Yield what is wrong with what is measured client by client."""
    most, on_devices = c.round.evaluate_clients, c.data.train == NODE
    apart = {
        "data.client-holdout": c.data.client_holdout,
        "data.unseen-clients": c.data.unseen_clients,
    }
    for key, share in apart.items():
        if share and on_devices and not kind.sums:
            yield (
                f"{key} is {share:g} with data.train = 'node', and task.name = {c.task.name!r} "
                "does not say what its sums are (TaskKind.sums), by which the answers of devices "
                "are checked; expected 0, or a task that does"
            )
        elif share and not most:
            yield (
                f"{key} is {share:g} with round.evaluate-clients = 0, so that what is held out is "
                "measured nowhere; expected a number of clients, or a share of 0"
            )
    if most and not any(apart.values()) and not c.data.test and on_devices:
        yield (
            f"round.evaluate-clients is {most} and nobody has examples to be measured on; set "
            "data.client-holdout, or data.test to examples with a column of users"
        )
