"""The gradient of a batch in parts, in mixed precision, and with activations computed again."""

import logging
import math

import numpy as np
import pytest
import torch

from fedllm_app.client import gradient as gradient_module
from fedllm_app.client.gradient import mean_gradient, rows_of
from fedllm_app.client.kept import Kept
from fedllm_app.client.moving import Moving
from fedllm_app.client.rules.optimizers import local_optimizer
from fedllm_app.client.settings import ClientSettings
from fedllm_app.client.train import train
from fedllm_app.config import RunConfig
from fedllm_app.core.job import Job
from fedllm_app.core.plan import ClientPlan
from fedllm_app.parts import Parts
from fedllm_app.place import Place


def parts_of(tiny, home, **more):
    changed = {key.replace("__", ".").replace("_", "-"): value for key, value in more.items()}
    keys = {"model.source": "scratch:tiny", "model.tokenizer": "train", "model.vocabulary": 300}
    keys |= {
        "model.train": "full",
        "run.home": str(home),
        "partition.clients": 4,
        "round.clients": 2,
    }
    keys |= {"client.batch": 12, "client.steps": 2, "client.lr": 0.01}
    return Parts(RunConfig.parse(tiny.keys("next-token") | keys | changed), Place(home))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("gradient")


@pytest.fixture(scope="module")
def parts(tiny, home):
    return parts_of(tiny, home)


@pytest.fixture
def device(parts, tmp_path):
    parts.model.load(parts.initial)
    parts.model.zero_grad()
    return parts.device(tmp_path)


def gradient_of(device, batch, micro=0, autocast=""):
    """Return the mean loss, its units and the gradient of one batch."""
    model = device.model
    model.model.train()
    model.zero_grad()
    loss, units = mean_gradient(
        lambda rows: device.loss(model.logits(rows), rows), batch, model.grad, micro, autocast
    )
    return float(loss), units, model.grad.numpy().copy()


def a_batch(device):
    batch = next(iter(device.batches("0", 12, np.random.default_rng(0))))
    counts = batch["attention_mask"].sum(1)
    assert len(set(counts.tolist())) > 1  # else a mean of means would be as good
    return batch


def far(one, other):
    return np.linalg.norm(one - other) / np.linalg.norm(other)


@pytest.mark.parametrize("micro", [1, 5, 11])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(device, micro):
    batch = a_batch(device)
    loss, units, whole = gradient_of(device, batch)
    split_loss, split_units, split = gradient_of(device, batch, micro)
    assert split_units == units
    assert split_loss == pytest.approx(loss, rel=1e-5)
    assert far(split, whole) < 1e-5
    means = [gradient_of(device, part)[2] for part in rows_of(batch, micro)]
    assert far(np.mean(means, axis=0), whole) > 1e-4


def test_rows_without_a_unit_count_for_nothing(device):
    batch = a_batch(device)
    _, units, whole = gradient_of(device, batch)
    empty = {name: torch.cat([tensor, tensor[:2]]) for name, tensor in batch.items()}
    empty["labels"][-2:] = -100
    _, again, split = gradient_of(device, empty, 2)
    assert again == units
    assert far(split, whole) < 1e-5


def test_a_batch_that_cannot_be_cut_by_rows_is_refused(device):
    batch = a_batch(device) | {"edges": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"client.micro-batch is 4, and the tensors .* 'edges': 3"):
        gradient_of(device, batch, 4)


def test_clipping_is_of_the_gradient_of_the_whole_batch(tiny, home, tmp_path):
    """With SGD of rate 1 a step is the clipped gradient: its norm is the bound, parts or not."""
    ends = {}
    for micro in (0, 3):
        parts = parts_of(
            tiny, home, client__clip_norm=0.01, client__steps=1, client__lr=1.0,
            client__micro_batch=micro,
        )  # fmt: skip
        start = parts.initial
        metrics = train(parts.device(tmp_path), Job(1, "0"), ClientPlan(), None, Kept(), {}).metrics
        assert metrics.steps == 1
        ends[micro] = start - parts.model.values()
        assert np.linalg.norm(ends[micro]) == pytest.approx(0.01, rel=1e-3)
    assert far(ends[3], ends[0]) < 1e-4


@pytest.mark.skipif(
    not gradient_module._has_bfloat16("cpu"), reason="this processor does not compute in bfloat16"
)
def test_mixed_precision_is_close_to_float32_and_no_more(device):
    batch = a_batch(device)
    loss, _, exact = gradient_of(device, batch)
    mixed_loss, _, mixed = gradient_of(device, batch, autocast="bfloat16")
    assert mixed_loss == pytest.approx(loss, rel=1e-2)
    assert 1e-5 < far(mixed, exact) < 0.1
    in_parts = gradient_of(device, batch, 5, "bfloat16")[2]
    assert far(in_parts, mixed) < 0.02


def test_a_processor_without_bfloat16_says_so_once_and_computes_in_float32(
    device, monkeypatch, said
):
    batch = a_batch(device)
    exact = gradient_of(device, batch)[2]
    able = torch.cpu.get_capabilities() | {"avx512_bf16": False, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able | {"architecture": "x86_64"})
    gradient_module._has_bfloat16.cache_clear()
    try:
        for _ in range(2):
            assert np.array_equal(gradient_of(device, batch, autocast="bfloat16")[2], exact)
        told = [r for r in said.records if "client.autocast is 'bfloat16'" in r.getMessage()]
        assert [r.levelno for r in told] == [logging.WARNING]
    finally:
        gradient_module._has_bfloat16.cache_clear()


def test_activations_computed_again_give_equal_gradients(tiny, home, device, tmp_path):
    batch = a_batch(device)
    loss, _, whole = gradient_of(device, batch)
    saving = parts_of(tiny, home, model__checkpointing=True)
    calls = []
    mlp = saving.model.backbone.model.layers[1].mlp
    mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    again_loss, _, again = gradient_of(saving.device(tmp_path), batch)
    assert len(calls) == 2  # forwards, and once more on the way back
    assert again_loss == loss
    np.testing.assert_allclose(again, whole, rtol=1e-5, atol=1e-8)
    # Measuring keeps no gradient, and computes nothing twice.
    saving.evaluate(saving.initial)
    assert len(calls) == 3


def test_decay_is_for_matrices_of_a_llama_and_not_for_its_norms(parts):
    layout = parts.model.layout
    moving = Moving(parts.model.flat, parts.model.grad, None, layout, split=True)
    spared = sum(
        size for name, size in zip(layout.names, layout.sizes, strict=True) if "norm" in name
    )
    width = parts.model.backbone.config.hidden_size
    assert spared == 7 * width  # two in each of three layers, and the last
    free = [len(p) for p, decays in zip(moving.parts, moving.decays, strict=True) if not decays]
    assert sum(free) == spared
    settings = ClientSettings(optimizer="adamw", weight_decay=0.1)
    groups = local_optimizer(settings, moving.parts, moving.decays).param_groups
    sums = {g["weight_decay"]: sum(map(len, g["params"])) for g in groups}
    assert sums == {0.1: layout.size - spared, 0.0: spared}


def test_a_client_that_was_idle_trains_at_the_rate_of_the_round_it_comes_back_in(
    tiny, home, tmp_path
):
    """Cosine over 40 steps, no warm-up: at step 30 of the run, whatever this client has done."""
    parts = parts_of(
        tiny, home, client__schedule="cosine", client__schedule_steps=40, client__lr=1.0,
        client__steps=1, client__clip_norm=0.01, client__momentum=0.0,
    )  # fmt: skip
    device, start = parts.device(tmp_path), parts.initial
    for clock in (0, 30):
        parts.model.load(start)
        train(device, Job(7, "0", clock=clock), ClientPlan(), None, Kept(), {})
        rate = 0.5 * (1 + math.cos(math.pi * clock / 40))
        step = np.linalg.norm(start - parts.model.values())
        assert step == pytest.approx(0.01 * rate, rel=1e-3)
