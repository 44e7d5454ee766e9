"""Classes are counted from the sums that the metrics are made of."""

import torch

from fedllm_app.tasks import TaskSettings
from fedllm_app.tasks.base import add_tallies
from fedllm_app.tasks.by_class import by_class


def test_classes_are_counted_over_batches():
    task = TaskSettings().kind.make(0, None)
    eye = torch.eye(4)
    first = task.tally(eye[[0, 1, 1]], {"labels": torch.tensor([0, 0, 1])})
    second = task.tally(eye[[3, 1]], {"labels": torch.tensor([1, 1])})
    # Two of class 0 (one right), three of class 1 (two right); 2 and 3 do not occur.
    assert by_class(add_tallies([first, second]), ["a", "b", "c", "d"]) == [
        {"label": "a", "examples": 2, "correct": 1, "predicted": 1},
        {"label": "b", "examples": 3, "correct": 2, "predicted": 3},
    ]


def test_a_task_without_classes_has_none():
    assert by_class({"loss_sum": 1.0, "units": 3}, []) == []
    assert by_class({"units": 3, "tp": torch.zeros(1).numpy()}, ["a"]) == []
