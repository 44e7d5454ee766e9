"""The sums of a device are those of its task, or they are refused."""

import json

import numpy as np
import pytest
import torch

from fedllm_app.client.measure import plain
from fedllm_app.core.errors import WireError
from fedllm_app.tasks import TASKS
from fedllm_app.tasks.sums import OF_LABELS, OF_TOKENS, checked_sums

LABELS = {
    "units": 3, "loss_sum": 1.5, "correct": 2, "tp": [2, 0], "fp": [0, 1], "fn": [1, 0]
}  # fmt: skip
HOSTILE = {
    "units that nobody has": ({"units": 4}, "malformed"),
    "units below 0": ({"units": -1}, "malformed"),
    "units that are no number": ({"units": True}, "malformed"),
    "no units": ({"units": [3]}, "malformed"),
    "a loss that is no number": ({"loss_sum": float("nan")}, "non-finite"),
    "a loss without end": ({"loss_sum": float("inf")}, "non-finite"),
    "a loss below 0": ({"loss_sum": -1.0}, "malformed"),
    "a loss that no float holds": ({"loss_sum": 10**400}, "malformed"),
    "more correct than there are": ({"correct": 4}, "malformed"),
    "a count that is not whole": ({"correct": 1.5}, "malformed"),
    "a label more": ({"tp": [1, 0, 1]}, "malformed"),
    "a label below 0": ({"tp": [3, -1]}, "malformed"),
    "more over all labels than there are": ({"fp": [2, 2]}, "malformed"),
    "labels as a number": ({"fn": 1}, "malformed"),
    "a sum that nobody knows": ({"extra": 1}, "malformed"),
}


def test_sums_there_and_back():
    tally = checked_sums(OF_LABELS, LABELS, 3, 2)
    assert json.loads(json.dumps(plain(tally))) == LABELS
    assert all(isinstance(tally[name], np.ndarray) for name in ("tp", "fp", "fn"))


@pytest.mark.parametrize("name", HOSTILE)
def test_what_cannot_be_is_refused(name):
    changes, reason = HOSTILE[name]
    with pytest.raises(WireError) as refused:
        checked_sums(OF_LABELS, LABELS | changes, 3, 2)
    assert refused.value.reason == reason


def test_a_sum_that_is_missing_is_refused():
    with pytest.raises(WireError, match=r"expected .*'correct', 'loss_sum', 'units'"):
        checked_sums(OF_TOKENS, {"units": 1, "loss_sum": 0.0}, 3, 0)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_says_what_its_sums_are(name):
    kind = TASKS[name]
    task, labels = kind.make(0, None), 2 if kind.needs_labels else 0
    shape = (3,) if labels else (3, 4)
    batch = {"labels": torch.zeros(shape, dtype=torch.int64)}
    tally = task.tally(torch.ones(*shape, 2), batch)
    units = task.units(batch)
    assert task.metrics(checked_sums(kind.sums, plain(tally), units, labels)) == task.metrics(tally)
