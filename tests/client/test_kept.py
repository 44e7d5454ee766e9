"""State kept on a device: what the server accepted, and nothing of what it never saw.

SGD with momentum 1/2 along a slope of 1: the first delta is 1, the next 1.5, then 1.75.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from asking import request_for
from toys import BASE, LAYOUT, PARAMS, P, bits, toy_device

from fedllm_app.client.answer import answer
from fedllm_app.client.kept import Kept, load_kept, save_kept
from fedllm_app.client.moving import Moving, restore, state_of
from fedllm_app.core.job import Job, Request
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import ClientPlan
from fedllm_app.core.support import Derived, Positions
from fedllm_app.wire.codec import decode, encode
from fedllm_app.wire.slices import origin_of

SLOPES = {"a": np.ones(P, np.float32), "b": np.full(P, 8, np.float32)}


@pytest.fixture
def device(tmp_path):
    return toy_device(SLOPES, tmp_path, momentum=0.5, keep_optimizer=True)


DENSE = ClientPlan()


def delta(device, job, plan=DENSE, params=PARAMS):
    """Return what a job sends up."""
    sent = plan.down.idx if isinstance(plan.down, Positions) else None
    origin = origin_of(LAYOUT, BASE)
    values = params if sent is None else params[sent]
    payload = encode(values, sent, origin, value_type="fp32", block=256)
    request = Request("all", plan.to_json(), {"params": payload}, (job,), LAYOUT.hash, BASE, job.id)
    (reply,) = answer(device, request)
    assert reply.error == ""
    return decode(reply.vectors["params"], origin, derived=sent).values


def test_an_accepted_job_is_gone_on_from(device):
    assert set(delta(device, Job(1, "a"))) == {1}
    assert set(delta(device, Job(2, "a", state_from=1))) == {1.5}
    assert set(delta(device, Job(5, "a", state_from=2))) == {1.75}


def test_a_dropped_job_leaves_no_trace(device):
    delta(device, Job(1, "a"))
    delta(device, Job(2, "a", state_from=1))  # its reply was lost
    assert set(delta(device, Job(3, "a", state_from=1))) == {1.5}
    # Not even when several were lost one after the other.
    delta(device, Job(4, "a", state_from=1))
    assert set(delta(device, Job(5, "a", state_from=1))) == {1.5}


def test_a_first_job_that_was_dropped_leaves_none_either(device):
    delta(device, Job(1, "a"))
    assert set(delta(device, Job(2, "a", state_from=-1))) == {1}


def test_a_repeated_job_gives_the_same_bytes(device):
    delta(device, Job(1, "a"))
    first = delta(device, Job(2, "a", state_from=1))
    assert bits(delta(device, Job(2, "a", state_from=1))) == bits(first)
    assert set(delta(device, Job(3, "a", state_from=2))) == {1.75}


def test_a_server_that_goes_back_to_its_checkpoint_finds_the_state(device):
    # The checkpoint holds job 1; jobs 2 and 3 were accepted and then lost with the server.
    delta(device, Job(1, "a"))
    delta(device, Job(2, "a", state_from=1, saved=1))
    delta(device, Job(3, "a", state_from=2, saved=1))
    assert set(delta(device, Job(2, "a", state_from=1, saved=1))) == {1.5}
    assert set(delta(device, Job(3, "a", state_from=2, saved=1))) == {1.75}


def test_clients_do_not_share_state(device):
    delta(device, Job(1, "a"))
    assert set(delta(device, Job(2, "b", state_from=1))) == {8}
    assert set(delta(device, Job(2, "a", state_from=1))) == {1.5}


def test_a_device_without_the_state_starts_afresh(device):
    assert set(delta(device, Job(7, "a", state_from=3))) == {1}


def masked(*positions):
    support = Positions(np.array(positions))
    return ClientPlan(down=support, train=support, up=support)


def test_momentum_belongs_to_its_coordinate_whatever_the_mask(device):
    assert delta(device, Job(1, "a"), masked(0, 3)).tolist() == [1, 1]
    # 3 goes on; 4 begins; 0 waits and goes on from where it was.
    assert delta(device, Job(2, "a", state_from=1), masked(3, 4)).tolist() == [1.5, 1]
    assert delta(device, Job(3, "a", state_from=2), masked(0, 3, 4)).tolist() == [1.5, 1.75, 1.5]
    # So it does when a mask follows a dense round.
    delta(device, Job(1, "b"))
    assert delta(device, Job(2, "b", state_from=1), masked(7)).tolist() == [12]


def test_state_of_another_length_is_not_used_and_the_rest_is(tmp_path, caplog):
    kept = Kept({"momentum_buffer": torch.ones(3)}, {"seen": torch.ones(2, 2)}, None)
    save_kept(tmp_path, Job(1, "a"), kept, 3)
    found = load_kept(tmp_path, Job(2, "a", state_from=1), P)
    assert found.optimizer == {}
    assert found.rule["seen"].tolist() == [[1, 1], [1, 1]]
    assert "the optimizer that it kept has another length" in caplog.text


def test_a_device_starts_afresh_where_its_model_has_changed(device, tmp_path):
    save_kept(tmp_path, Job(1, "a"), Kept({"momentum_buffer": torch.ones(3)}), 3)
    assert set(delta(device, Job(2, "a", state_from=1))) == {1}


def test_a_damaged_file_is_said_and_left_out(device, tmp_path, caplog):
    delta(device, Job(1, "a"))
    (file,) = tmp_path.rglob("job-*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    assert set(delta(device, Job(2, "a", state_from=1))) == {1}
    assert "its state cannot be read" in caplog.text


def test_a_late_job_does_not_remove_what_a_newer_one_saved(tmp_path):
    for id_ in (3, 2):
        save_kept(tmp_path, Job(id_, "a", state_from=1), Kept(residual=torch.full((P,), id_)), P)
    newest = load_kept(tmp_path, Job(4, "a", state_from=3), P)
    assert set(newest.residual.tolist()) == {3}


def test_nothing_is_kept_unless_asked_for(tmp_path):
    device = toy_device(SLOPES, tmp_path / "kept", momentum=0.5)
    delta(device, Job(1, "a"))
    assert set(delta(device, Job(2, "a", state_from=1))) == {1}
    assert not (tmp_path / "kept").exists()


def test_only_what_can_be_asked_for_again_is_kept(device, tmp_path):
    delta(device, Job(1, "a"))
    for t in range(2, 9):
        delta(device, Job(t, "a", state_from=t - 1, saved=1))
    assert sorted(p.name for p in tmp_path.rglob("job-*")) == [
        f"job-{t:08d}.safetensors" for t in (1, 7, 8)
    ]
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("client", ["../../x", "/etc/passwd", "a/b", "", "ä" * 300])
def test_any_client_id_stays_inside_the_folder(tmp_path, client):
    device = toy_device({client: SLOPES["a"]}, tmp_path / "kept", keep_optimizer=True, momentum=0.5)
    delta(device, Job(1, client))
    assert set(delta(device, Job(2, client, state_from=1))) == {1.5}
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def moving_over(theta, layout):
    moving = Moving(theta, torch.zeros(7), None, layout)
    moving.parts = [theta]
    return moving


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_every_tensor_of_the_optimizer_is_kept_bit_for_bit(tmp_path, name):
    more = {"momentum": 0.9} if name == "SGD" else {}

    def fresh():
        theta = torch.linspace(-1, 1, 7)
        return theta, getattr(torch.optim, name)([theta], lr=0.1, weight_decay=0.1, **more)

    gradients = torch.randn(6, 7, generator=torch.Generator().manual_seed(0))
    theta, optimizer = fresh()
    for gradient in gradients[:3]:
        theta.grad = gradient.clone()
        optimizer.step()
    layout = ParamLayout(("a",), ((7,),))
    state = state_of(optimizer, moving_over(theta, layout), {})
    save_kept(tmp_path, Job(4, "a"), Kept(state), 7)
    other, restored = fresh()
    other.copy_(theta)
    back = load_kept(tmp_path, Job(9, "a", state_from=4), 7)
    restore(restored, moving_over(other, layout), back.optimizer, 7)
    for gradient in gradients[3:]:
        for values, stepped in ((theta, optimizer), (other, restored)):
            values.grad = gradient.clone()
            stepped.step()
    assert bits(theta) == bits(other)


def test_sgd_without_momentum_keeps_nothing_and_loads_it(tmp_path):
    device = toy_device(SLOPES, tmp_path, keep_optimizer=True, momentum=0.0)
    delta(device, Job(1, "a"))
    assert set(delta(device, Job(2, "a", state_from=1))) == {1}


HEAD = Derived("tensors", {"without": ["*lora*", "attention*"]})  # coordinates 10 and 11
OWN = frozenset({"values"})


def test_a_device_keeps_values_of_its_own_and_mixes_in_what_comes_down(tmp_path):
    """A step moves by the slope, 1: the change is measured against what came when it came."""
    device = toy_device(SLOPES, tmp_path / "kept")

    def change(job, **plan):
        origin = origin_of(LAYOUT, BASE)
        request = request_for(device.model, PARAMS, job, plan=ClientPlan(keeps=OWN, **plan))
        if plan:
            head = encode(PARAMS[10:12], None, origin, value_type="fp32", block=256, derived=True)
            request = replace(request, vectors={"params": head})
        (reply,) = answer(device, request)
        if reply.error:
            return reply
        return decode(reply.vectors["params"], origin).values.tolist()

    assert change(Job(1, "a")) == [1] * P
    # The head came again: half of its own is one step below it. The others are two steps away.
    found = change(Job(2, "a", state_from=1), down=HEAD, mixing=0.5)
    assert found == [2] * 10 + [1.5] * 2 + [2] * 8
    # A reply that was lost is as if it had not been.
    again = change(Job(3, "a", state_from=1), down=HEAD, mixing=0.0)
    assert again == [2] * 10 + [1] * 2 + [2] * 8
    lost = change(Job(4, "a", state_from=-1), down=HEAD)
    assert (lost.reason, "no longer holds values of its own" in lost.error) == ("forgotten", True)
