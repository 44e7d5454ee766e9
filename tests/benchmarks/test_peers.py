"""The peers that ours is compared with do the same work: the same values come out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import get_peft_model_state_dict
from torch.nn.utils import parameters_to_vector

from benchmarks.peers import bare, flasc_style
from benchmarks.rows.setting import Setting
from fedllm_app.client.kept import Kept
from fedllm_app.client.train import train
from fedllm_app.core.job import Job
from fedllm_app.core.plan import ClientPlan
from fedllm_app.server.optimizer import ServerOptimizer


@pytest.fixture(scope="module", params=["sequence-classification", "next-token"])
def setting(request, tiny, tmp_path_factory):
    """Return one round of three clients without dropout."""
    recipe = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    recipe.write_text("")
    targets = "query,value" if request.param == "sequence-classification" else "q_proj,v_proj"
    keys = tiny.keys(request.param) | {
        "partition.clients": 6, "round.clients": 3, "client.batch": 4, "client.lr": 0.1,
        "client.threads": 1, "lora.rank": 2, "lora.dropout": 0.0, "lora.targets": targets,
        "server.optimizer": "adam", "server.lr": 0.01, "server.eps": 1e-3,
    }  # fmt: skip
    return Setting(recipe, keys, 1)


def ours(setting, client):
    """Return the values after one client's training, and its mean loss."""
    device = setting.device
    device.model.load(device.initial)
    metrics = train(device, Job(1, client), ClientPlan(), None, Kept(), {}).metrics
    return device.model.values(), metrics.loss_sum / metrics.units


def flat(setting, model):
    """Return a peer's trainable values in the order of ours."""
    tensors = get_peft_model_state_dict(model)
    return setting.parts.model.layout.flatten(tensors).numpy()


def test_the_bare_loop_ends_in_the_same_parameters(setting):
    inputs, client = setting.inputs(), setting.cohorts[0][0]
    model = bare.build(inputs)
    loss = bare.train(model, inputs.clients[f"1/{client}"], inputs.lr, inputs.momentum)
    values, own_loss = ours(setting, client)
    assert np.abs(values - setting.device.initial).max() > 1e-3
    np.testing.assert_allclose(flat(setting, model), values, rtol=1e-4, atol=1e-6)
    # Ours weighs next-token batches by their tokens, the bare loop by their rows.
    assert loss == pytest.approx(own_loss, rel=1e-5 if inputs.labels else 0.05)


def test_a_round_of_the_flasc_style_is_ours_at_density_1(setting):
    inputs, c = setting.inputs(setting.config.task.max_tokens), setting.config
    initial = setting.device.initial
    deltas = [initial - ours(setting, client)[0] for client in setting.cohorts[0]]
    optimizer = ServerOptimizer(c.server, initial)
    optimizer.step(np.mean(deltas, axis=0, dtype=np.float32))
    peer = flasc_style.FlascStyle(
        bare.build(inputs), down=1.0, up=1.0,
        lr=inputs.lr, momentum=inputs.momentum, server_lr=inputs.server_lr,
    )  # fmt: skip
    peer.optimizer.param_groups[0]["eps"] = c.server.eps  # a step of rounding noise stays small
    peer.play_round([inputs.clients[name] for name in setting.names[0]])
    torch.nn.utils.vector_to_parameters(peer.values_P, bare.trainable(peer.model))
    assert np.abs(optimizer.params - initial).max() > 1e-3
    np.testing.assert_allclose(flat(setting, peer.model), optimizer.params, rtol=1e-3, atol=1e-5)


def test_a_bare_server_steps_as_ours_does(setting):
    inputs, names = setting.inputs(), setting.names[0]
    model = bare.build(inputs)
    server = bare.Server(model, inputs.server_lr)
    initial = parameters_to_vector(server.values).clone()
    deltas = [bare.delta_of(model, server.values, inputs.clients[n], inputs) for n in names]
    server.step(deltas)
    moved = initial - parameters_to_vector(server.values)
    # Adam's first step is the learning rate, in the direction of the mean delta.
    mean = torch.stack([parameters_to_vector(delta) for delta in deltas]).mean(0)
    far = mean.abs() > 1e-4
    torch.testing.assert_close(moved[far], 0.01 * mean[far].sign(), rtol=1e-2, atol=1e-4)


def test_masks_keep_the_largest_and_padding_is_not_seen(setting):
    mask = flasc_style.top_mask(torch.tensor([3.0, -4.0, 1.0, 0.5]), 0.5)
    assert mask.tolist() == [1.0, 1.0, 0.0, 0.0]
    batch = {"input_ids": torch.ones(1, 2, dtype=torch.long), "labels": torch.tensor([[1, 1]])}
    longer = flasc_style.padded(batch, 4, 7)
    assert longer["input_ids"].tolist() == [[1, 1, 7, 7]]
    assert longer["labels"].tolist() == [[1, 1, -100, -100]]


def test_inputs_survive_their_file(setting, tmp_path):
    inputs = setting.inputs()
    again = bare.Inputs.open(inputs.save(tmp_path / "inputs.pt"))
    assert replace(again, initial={}, clients={}) == replace(inputs, initial={}, clients={})
    assert again.clients.keys() == inputs.clients.keys()
