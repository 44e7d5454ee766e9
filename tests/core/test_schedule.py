"""A learning rate is a pure function of the step."""

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from fedllm_app.core.schedule import ScheduleSettings, factor, schedule_problems


def factors(steps, **settings):
    return [factor(ScheduleSettings(**settings), step) for step in steps]


def test_constant_changes_no_bit():
    assert factors(range(5)) == [1.0] * 5


def test_warm_up_rises_to_the_full_rate():
    assert factors(range(5), warmup_steps=4) == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(
    ("name", "peer"),
    [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)],
)
def test_decay_is_that_of_transformers(name, peer):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = peer(optimizer, num_warmup_steps=10, num_training_steps=100)
    expected = []
    for _ in range(120):
        expected.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    mine = factors(range(10, 101), schedule=name, warmup_steps=10, schedule_steps=100)
    assert mine == pytest.approx(expected[10:101], abs=1e-12)


def test_wsd_is_stable_and_then_decays_to_its_floor():
    how = {"schedule": "wsd", "schedule_steps": 100, "decay_share": 0.2, "lr_floor": 0.1}
    assert factors([0, 50, 80, 90, 100, 500], **how) == pytest.approx([1, 1, 1, 0.55, 0.1, 0.1])


def test_a_schedule_without_an_end_is_refused():
    (problem,) = schedule_problems("client", ScheduleSettings(schedule="cosine", warmup_steps=5))
    assert "client.schedule-steps is 0 with client.schedule = 'cosine'" in problem
    assert not list(schedule_problems("client", ScheduleSettings(warmup_steps=5)))
