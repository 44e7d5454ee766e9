"""Local training by hand, on a toy whose gradients are given."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from asking import deltas, request_for
from toys import LAYOUT, OTHER, PARAMS, P, at, bits, toy_device

from fedllm_app.client.answer import answer
from fedllm_app.client.train import local_batches
from fedllm_app.core.job import Job, Request
from fedllm_app.core.plan import ClientPlan, TopK, Work
from fedllm_app.core.support import All, Derived, Positions

ONES = {"a": np.ones(P, np.float32)}


@pytest.mark.parametrize(
    ("settings", "work", "steps"),
    [
        ({}, Work(), 1),
        ({"epochs": 3}, Work(), 3),
        ({"epochs": 3, "steps": 2}, Work(), 2),
        ({"steps": 5}, Work(), 5),
        ({"epochs": 3}, Work(epochs=2), 2),
        ({"steps": 5}, Work(epochs=2), 2),
        ({"epochs": 3}, Work(steps=4), 4),
    ],
)
def test_steps_and_epochs(tmp_path, settings, work, steps):
    device = toy_device(ONES, tmp_path, **settings)
    (reply,) = answer(device, request_for(device.model, PARAMS, Job(1, "a"),
                                          plan=ClientPlan(work=work)))  # fmt: skip
    assert reply.metrics.steps == steps
    assert device.model.flat.tolist() == (PARAMS - steps).tolist()


def test_the_batch_size_of_the_plan_comes_first(tmp_path):
    asked = []
    device = toy_device(ONES, tmp_path, batch=7)
    device = replace(device, batches=lambda c, batch, rng: asked.append(batch) or iter([]))
    list(local_batches(device, Job(1, "a"), Work()))
    list(local_batches(device, Job(1, "a"), Work(batch=3)))
    assert asked == [7, 3]


def test_a_client_without_batches_ends(tmp_path):
    device = toy_device(ONES, tmp_path, steps=5)
    device = replace(device, batches=lambda c, batch, rng: iter([]))
    (update,) = deltas(device, request_for(device.model, PARAMS, Job(1, "a")))
    assert not update.values.any()


def test_the_loss_is_summed_over_units(tmp_path):
    # The sum of 1 to 20 is 210; after a step of 1 it is 190.
    device = toy_device(ONES, tmp_path, steps=2)
    (reply,) = answer(device, request_for(device.model, PARAMS, Job(1, "a")))
    assert (reply.metrics.loss_sum, reply.metrics.units) == (400.0, 2)
    assert reply.metrics.train_s > 0


def test_clipping_scales_the_whole_gradient(tmp_path):
    slopes = {"a": at({0: 3, 7: 4}), "b": at({0: 0.3, 7: 0.4})}
    device = toy_device(slopes, tmp_path, clip_norm=1.0)
    long, short = deltas(device, request_for(device.model, PARAMS, Job(1, "a"), Job(1, "b")))
    np.testing.assert_allclose(long.values[[0, 7]], [0.6, 0.8], rtol=1e-5)
    np.testing.assert_allclose(short.values[[0, 7]], [0.3, 0.4], rtol=1e-5)


def test_clipping_sees_only_what_may_move(tmp_path):
    device = toy_device({"a": at({0: 3, 7: 400})}, tmp_path, clip_norm=1.0)
    sent = np.array([0, 1])
    plan = ClientPlan(down=Positions(sent), train=Positions(sent), up=Positions(sent))
    request = request_for(device.model, PARAMS, Job(1, "a"), plan=plan, sent=sent)
    np.testing.assert_allclose(deltas(device, request, sent)[0].values, [1, 0], atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_masked_training_moves_nothing_outside(tmp_path, optimizer):
    device = toy_device(
        ONES, tmp_path, bend=0.1, optimizer=optimizer, momentum=0.9, weight_decay=0.5, lr=0.1,
        steps=4,
    )  # fmt: skip
    sent = np.array([1, 4, 19])
    plan = ClientPlan(down=Positions(sent), fill="initial", train=Positions(sent), up=All())
    request = request_for(device.model, PARAMS, Job(1, "a"), plan=plan, sent=sent)
    (update,) = deltas(device, request)
    assert np.flatnonzero(update.values).tolist() == [1, 4, 19]
    # What was not sent is what the device was built with, to the bit.
    start = -PARAMS
    start[sent] = PARAMS[sent]
    end = device.model.flat.numpy()
    rest = np.setdiff1d(np.arange(P), sent)
    assert bits(end[rest]) == bits(start[rest])
    # Inside it is torch's own optimizer over three numbers.
    theta = torch.from_numpy(PARAMS[sent].copy())
    kind = torch.optim.SGD if optimizer == "sgd" else torch.optim.AdamW
    more = {"momentum": 0.9} if optimizer == "sgd" else {}
    reference = kind([theta], lr=0.1, weight_decay=0.5, **more)
    for _ in range(4):
        theta.grad = 1 + 0.1 * theta
        reference.step()
    np.testing.assert_allclose(end[sent], theta.numpy(), rtol=1e-6)


def test_the_top_is_of_the_delta_and_inside_what_is_allowed(tmp_path):
    device = toy_device({"a": np.arange(P, 0, -1, dtype=np.float32)}, tmp_path)
    no_a = Derived("tensors", {"without": ["*lora_A*"]})
    plan = ClientPlan(up=TopK(0.2, no_a))
    (update,) = deltas(device, request_for(device.model, PARAMS, Job(1, "a"), plan=plan))
    # A fifth of the 14 outside A, rounded: three, the first after A.
    assert update.positions.tolist() == [6, 7, 8]
    assert update.values.tolist() == [14, 13, 12]


@pytest.mark.parametrize(
    ("changes", "reason", "why"),
    [
        ({"layout": OTHER}, "foreign", f"layout is {OTHER}; this device has {LAYOUT.hash} with 20"),
        ({"plan": {}}, "malformed", "expected ClientPlan.to_json"),
        ({"plan": ClientPlan(down=Derived("x")).to_json()}, "error", "support rule is 'x'"),
        ({"vectors": {"params": np.zeros(9, np.uint8)}}, "malformed", ""),
    ],
)
def test_what_is_not_for_this_device_is_answered_with_an_error(tmp_path, changes, reason, why):
    device = toy_device(ONES, tmp_path)
    request = request_for(device.model, PARAMS, Job(1, "a"))
    (reply,) = answer(device, Request(**(vars(request) | changes)))
    assert not reply.vectors
    assert reply.reason == reason
    assert why in reply.error
    assert reply.error


def test_another_base_is_refused(tmp_path):
    device = toy_device(ONES, tmp_path)
    request = request_for(device.model, PARAMS, Job(1, "a"))
    device.model.fingerprint = OTHER
    (reply,) = answer(device, request)
    assert (reply.reason, reply.vectors) == ("foreign", {})


def test_training_that_runs_away_is_not_sent(tmp_path):
    device = toy_device({"a": np.full(P, 1e38, np.float32)}, tmp_path, lr=100.0)
    for plan in (ClientPlan(), ClientPlan(up=TopK(0.25))):
        (reply,) = answer(device, request_for(device.model, PARAMS, Job(1, "a"), plan=plan))
        assert not reply.vectors
        assert reply.reason == "non-finite"


@pytest.mark.parametrize("error", [ValueError, IndexError, KeyError, RuntimeError, OSError])
def test_a_job_that_fails_does_not_touch_the_others(tmp_path, error):
    device = toy_device(ONES | {"b": ONES["a"]}, tmp_path)
    good = device.batches

    def batches(client, batch, rng):
        if client == "a":
            raise error("row 3 is torn")
        return good(client, batch, rng)

    device = replace(device, batches=batches)
    bad, fine = answer(device, request_for(device.model, PARAMS, Job(1, "a"), Job(1, "b")))
    assert error.__name__ in bad.error
    assert "row 3 is torn" in bad.error
    assert fine.vectors
