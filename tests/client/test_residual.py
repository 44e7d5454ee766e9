"""Error feedback: what an upload leaves out is added to the next one, and nothing is lost.

A toy client of slopes 1 to 20 has the same delta every round; the upload holds one of twenty.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from asking import request_for
from safetensors.numpy import load_file
from toys import BASE, LAYOUT, PARAMS, P, Scripted, toy_device, toy_loop

from fedllm_app.client.answer import answer
from fedllm_app.client.kept import Kept, save_kept
from fedllm_app.core.job import Job
from fedllm_app.core.plan import ClientPlan, TopK
from fedllm_app.core.region import positions_of
from fedllm_app.core.support import All, Derived, Draw, expand
from fedllm_app.server.asked import expected
from fedllm_app.wire.codec import WireSettings, decode, encode
from fedllm_app.wire.slices import origin_of

SLOPES = {"a": np.arange(1, P + 1, dtype=np.float32)}
KEEPING = ClientPlan(up=TopK(0.05), keeps=frozenset({"residual"}))


def sent(device, job, plan=KEEPING):
    """Return what a job sends up, by position."""
    (reply,) = answer(device, request_for(device.model, PARAMS, job, plan=plan))
    assert reply.error == ""
    model = device.model
    got = decode(reply.vectors["params"], origin_of(model.layout, model.fingerprint))
    where = range(P) if got.positions is None else got.positions.tolist()
    return dict(zip(where, got.values.tolist(), strict=True))


def test_what_is_left_out_adds_up_until_it_is_sent(tmp_path):
    device = toy_device(SLOPES, tmp_path)
    assert sent(device, Job(1, "a")) == {19: 20}
    # All but the last have doubled: 19 twice is 38, and 20 once is 20.
    assert sent(device, Job(2, "a", state_from=1)) == {18: 38}
    assert sent(device, Job(3, "a", state_from=2)) == {17: 54}
    # Without it, the largest is sent every time.
    plain = ClientPlan(up=TopK(0.05))
    assert [sent(device, Job(t, "a", state_from=t - 1), plain) for t in (4, 5)] == [{19: 20}] * 2


def test_what_is_kept_fades_by_the_decay_before_an_update_is_added(tmp_path):
    """SparseLoCo: e <- beta e + delta, and what is sent is taken off."""
    device, fading = toy_device(SLOPES, tmp_path), replace(KEEPING, decay=0.5)
    assert sent(device, Job(1, "a"), fading) == {19: 20}
    # 19 and a half of 19; then 18, a half of it and a quarter.
    assert sent(device, Job(2, "a", state_from=1), fading) == {18: 28.5}
    assert sent(device, Job(3, "a", state_from=2), fading) == {17: 31.5}
    assert sent(device, Job(4, "a", state_from=3), replace(KEEPING, decay=0.0)) == {19: 20}


def test_the_rounding_error_of_the_nearest_level_is_kept_too(tmp_path):
    device = toy_device(SLOPES, tmp_path, wire=WireSettings(up_values="q2"))
    plan = ClientPlan(up=TopK(0.5), keeps=frozenset({"residual"}), rounding="nearest")
    first = sent(device, Job(1, "a"), plan)
    # The largest ten are 11 to 20. So short a vector is marked, with their mean as the magnitude.
    assert first == dict.fromkeys(range(10, 20), 15.5)
    (file,) = tmp_path.rglob("job-*.safetensors")
    left = load_file(file)["residual"]
    assert left.tolist() == [slope - first.get(at, 0) for at, slope in enumerate(SLOPES["a"])]
    # Nothing is drawn: another job of the same change sends the same.
    assert sent(device, Job(2, "a"), plan) == first


def test_a_top_of_each_block_is_chosen_on_the_device_and_counted_by_the_server(tmp_path):
    device = toy_device(SLOPES, tmp_path)
    up = TopK(0.5, side=2, always=Derived("tensors", {"without": ["*lora*", "attention*"]}))
    found = sent(device, Job(1, "a"), ClientPlan(up=up))
    # A is 2 x 3 (a square and a column), B a square; the head is always sent; the rest is in twos.
    assert sorted(found) == [3, 4, 5, 8, 9, 10, 11, 13, 15, 17, 19]
    asked = expected(up, LAYOUT, Draw(0), "fp32", 256)
    assert (asked.count, asked.always.tolist()) == (len(found), [10, 11])


def test_a_dropped_reply_loses_nothing(tmp_path):
    device = toy_device(SLOPES, tmp_path)
    sent(device, Job(1, "a"))
    sent(device, Job(2, "a", state_from=1))  # the server never saw it
    assert sent(device, Job(3, "a", state_from=1)) == {18: 38}
    assert sent(device, Job(3, "a", state_from=-1)) == {19: 20}


@pytest.mark.parametrize("values", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("density", [0.05, 0.5, 1.0])
def test_sent_and_left_out_are_all_there_was(tmp_path, values, density):
    # Rounding is left out as well, also where everything is sent.
    slopes = {"a": np.random.default_rng(0).normal(size=P).astype(np.float32)}
    wire = WireSettings(up_values=values, block=16)
    device = toy_device(slopes, tmp_path, wire=wire)
    plan = ClientPlan(up=TopK(density), keeps=frozenset({"residual"}))
    total = np.zeros(P)
    for t in range(1, 9):
        for where, value in sent(device, Job(t, "a", state_from=t - 1 or -1), plan).items():
            total[where] += value
    left = load_file(next(tmp_path.rglob("job-00000008*")))["residual"]
    # A step on weights up to 20 rounds each delta to 2^-20.
    np.testing.assert_allclose(total + left, 8 * slopes["a"], rtol=0, atol=1e-4)


def test_a_run_with_error_feedback_loses_no_coordinate(tmp_path):
    def moved(**strategy):
        folder = tmp_path / str(strategy)
        device = toy_device(SLOPES, folder / "kept")
        loop = toy_loop(
            folder, Scripted(device, {"a": 1}), method="floss", rounds=30, clients=1,
            strategy={"d_down": 1.0, "d_up": 0.05} | strategy, server={"lr": 1.0},
        )  # fmt: skip
        loop.play()
        return np.flatnonzero(loop.optimizer.params != PARAMS).tolist()

    assert moved() == [19]
    assert len(moved(error_feedback=True)) > 10


@pytest.mark.parametrize(
    "support",
    [All(), Derived("tensors", {"without": ["*lora*"]}), Derived("rank-slices", {"rank": 1})],
)
def test_rounding_is_left_out_of_any_upload(tmp_path, support):
    slopes = {"a": np.random.default_rng(1).normal(size=P).astype(np.float32)}
    device = toy_device(slopes, tmp_path, wire=WireSettings(up_values="int8", block=16))
    plan = ClientPlan(down=support, train=support, up=support, keeps=frozenset({"residual"}))
    inside = positions_of(expand(support, LAYOUT, Draw(0)), P)
    total = np.zeros(inside.size)
    for t in range(1, 9):
        request = request_for(device.model, PARAMS, Job(t, "a", state_from=t - 1 or -1))
        payload = encode(
            PARAMS[inside], None if inside.size == P else inside, origin_of(LAYOUT, BASE),
            value_type="fp32", block=256, derived=inside.size < P,
        )  # fmt: skip
        (reply,) = answer(
            device, replace(request, plan=plan.to_json(), vectors={"params": payload})
        )
        assert reply.error == ""
        got = decode(
            reply.vectors["params"],
            origin_of(LAYOUT, BASE),
            derived=None if inside.size == P else inside,
        )
        total += got.values
    left = load_file(next(tmp_path.rglob("job-00000008*")))["residual"]
    left = left if left.size == inside.size else left[inside]
    np.testing.assert_allclose(total + left, 8 * slopes["a"][inside], rtol=0, atol=1e-4)


def test_a_residual_of_another_length_is_not_used(tmp_path, caplog):
    device = toy_device(SLOPES, tmp_path)
    save_kept(tmp_path, Job(1, "a"), Kept(residual=torch.ones(3)), 3)
    assert sent(device, Job(2, "a", state_from=1)) == {19: 20}
    assert "another length" in caplog.text
