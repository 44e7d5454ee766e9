"""The flat vector and the model are the same memory, whatever is done to either."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from fedllm_app.core.errors import WireError
from fedllm_app.core.support import Derived, Draw, expand
from fedllm_app.models.trainable import base_fingerprint

CASES = [
    ("bert", "sequence-classification", "lora"),
    ("bert", "sequence-classification", "head"),
    ("gpt2", "next-token", "lora"),
    ("llama", "next-token", "full"),
    ("dinov2", "image-classification", "full"),
]


def loss_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())


@pytest.mark.parametrize(("kind", "task", "train"), CASES)
def test_one_flat_step_is_a_step_of_every_tensor(trainable, batch, kind, task, train):
    flat, twin = (trainable(kind, train=train, lora={"dropout": 0.0}) for _ in range(2))
    inputs = batch(task)
    tensors = [p for p in twin.model.parameters() if p.requires_grad]
    optimizers = (
        torch.optim.SGD([flat.flat], lr=0.1, momentum=0.9),
        torch.optim.SGD(tensors, lr=0.1, momentum=0.9),
    )
    for model, optimizer in zip((flat, twin), optimizers, strict=True):
        model.model.train()
        for _ in range(3):
            model.zero_grad()
            loss_of(model.logits(inputs), inputs["labels"]).backward()
            optimizer.step()
    assert torch.equal(flat.flat, twin.flat)
    assert not torch.equal(flat.flat, trainable(kind, train=train).flat)


@pytest.mark.parametrize(("kind", "task", "train"), CASES)
def test_all_trainables_share_one_storage(trainable, batch, kind, task, train):
    model = trainable(kind, train=train)
    loss_of(model.logits(batch(task)), batch(task)["labels"]).backward()
    trained = [p for p in model.model.parameters() if p.requires_grad]
    home = model.flat.untyped_storage().data_ptr()
    assert {p.untyped_storage().data_ptr() for p in trained} == {home}
    assert {p.grad.untyped_storage().data_ptr() for p in trained} == {
        model.grad.untyped_storage().data_ptr()
    }
    assert model.flat.untyped_storage().nbytes() == 4 * sum(p.numel() for p in trained)


def test_gradients_accumulate_over_backward_passes(trainable, batch):
    model = trainable("bert", lora={"dropout": 0.0})
    inputs = batch("sequence-classification")
    loss_of(model.logits(inputs), inputs["labels"]).backward()
    once = model.grad.clone()
    loss_of(model.logits(inputs), inputs["labels"]).backward()
    assert once.abs().sum() > 0
    assert torch.allclose(model.grad, 2 * once)


@pytest.mark.parametrize(
    "disturb",
    [
        lambda m: m.zero_grad(set_to_none=True),
        lambda m: m.to("cpu"),
        lambda m: m.to(torch.float32),
        lambda m: m.train().eval(),
        lambda m: m.tie_weights(),
        lambda m: m.requires_grad_(True),
    ],
)
def test_what_users_do_to_modules_does_not_cut_the_views(trainable, batch, disturb):
    model = trainable("llama", train="full")
    disturb(model.model)
    model.zero_grad()
    model.load(model.values())
    inputs = batch("next-token")
    loss_of(model.logits(inputs), inputs["labels"]).backward()
    assert model.grad.abs().sum() > 0
    before = model.logits(inputs)
    model.flat.mul_(1.5)
    assert not torch.equal(model.logits(inputs), before)


def test_a_cut_view_is_noticed(trainable):
    model = trainable("bert")
    model.model.to(torch.bfloat16)
    with pytest.raises(RuntimeError, match="no longer lies in the flat vector"):
        model.load(np.zeros(model.layout.size, np.float32))


def test_load_and_values(trainable, batch):
    model = trainable("bert")
    values = np.arange(model.layout.size, dtype=np.float32)
    values.setflags(write=False)  # as decoded payloads are
    model.load(values)
    copy = model.values()
    assert np.array_equal(copy, values) and copy.dtype == np.float32
    copy[:] = 0
    assert np.array_equal(model.values(), values)
    model.load(torch.zeros(model.layout.size))
    assert not model.values().any()
    assert not model.logits(batch("sequence-classification")).any()  # the head is zero
    with pytest.raises(WireError, match=r"\[3\] trainable values; expected"):
        model.load(np.zeros(3, np.float32))


def test_layout_gives_each_name_its_parameter(trainable):
    model = trainable("bert")
    model.load(torch.arange(float(model.layout.size)))
    bias = model.model.get_submodule("base_model.model.classifier").modules_to_save.default.bias
    assert bias.tolist() == [float(model.layout.size - 3 + i) for i in range(3)]


def test_vit_takes_images_of_another_side(trainable):
    for kind in ("vit", "dinov2"):
        model = trainable(kind)
        assert model.logits({"pixel_values": torch.zeros(1, 3, 42, 42)}).shape == (1, 3)


def test_fingerprint_is_of_the_frozen_base(trainable):
    model = trainable("bert")
    assert len(model.fingerprint) == 32
    others = (trainable("bert", seed=9), trainable("bert", lora={"rank": 2}))
    assert {other.fingerprint for other in others} == {model.fingerprint}
    assert trainable("bert", train="head").fingerprint == model.fingerprint
    assert trainable("bert", dtype="bfloat16").fingerprint != model.fingerprint

    moved = trainable("bert")
    moved.load(torch.ones(moved.layout.size))
    assert moved.fingerprint == model.fingerprint

    changed = trainable("bert")
    frozen = dict(changed.model.named_parameters())
    weight = frozen["base_model.model.bert.encoder.layer.1.output.dense.weight"]
    weight.data[0, 0] += 1e-3
    assert changed.fingerprint != model.fingerprint


def test_fingerprint_is_the_same_in_another_process(trainable, source):
    mine = trainable("bert").fingerprint
    folder = source("bert")
    lines = f"""
from pathlib import Path
from fedllm_app.models.settings import LoraSettings
from fedllm_app.models.adapter import wrap
from fedllm_app.models.settings import ModelSettings
from fedllm_app.models.backbone import load_backbone
s = ModelSettings(source={folder!r})
m = load_backbone(s, s.source, "sequence-classification", ["x", "y"], Path("/nowhere"), seed=3)
print(wrap(m, s, LoraSettings(), 3).fingerprint)
"""
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == mine


def test_fingerprint_tells_names_types_and_shapes_apart():
    value = torch.zeros(2, 2)
    prints = {
        base_fingerprint([("a", value)]),
        base_fingerprint([("b", value)]),
        base_fingerprint([("a", value.view(4))]),
        base_fingerprint([("a", value.int())]),
        base_fingerprint([("a", torch.ones(2, 2))]),
    }
    assert len(prints) == 5
    tied = base_fingerprint([("a", value), ("b", value)])
    assert tied == base_fingerprint([("a", value)])
    other = torch.tensor(3.0)
    assert base_fingerprint([("a", value), ("c", other)]) == base_fingerprint(
        [("c", other), ("a", value)]
    )


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_model_of_a_lower_rank_is_the_bank_with_zeros_in_the_rest(trainable, batch, kind):
    """Its adapters are smaller, and its loss and gradients are those of the zeroed bank."""
    model = trainable(kind, lora={"rank": 4, "dropout": 0.0})
    inputs = batch("next-token" if kind == "gpt2" else "sequence-classification")
    slices = expand(Derived("rank-slices", {"rank": 1}), model.layout, Draw(0)).positions()
    values = torch.linspace(-0.2, 0.2, model.layout.size).numpy()
    bank = np.zeros_like(values)
    bank[slices] = values[slices]

    def seen():
        model.model.eval()
        model.zero_grad()
        logits = model.logits(inputs)
        loss_of(logits, inputs["labels"]).backward()
        return logits.detach().clone(), model.grad.clone()

    model.load(bank)
    logits, grad = seen()
    model.load(values[slices], rank=1)
    small_logits, small_grad = seen()
    assert model.flat.numel() == model.grad.numel() == slices.size
    ranks = {p.shape[0] for n, p in model.model.named_parameters() if ".lora_A." in n}
    assert ranks == {1}
    torch.testing.assert_close(small_logits, logits)
    wanted = grad[torch.from_numpy(slices)]
    assert float((small_grad - wanted).norm()) < 1e-4 * float(wanted.norm())
    # The next client may hold the bank again.
    model.load(bank)
    again, _ = seen()
    assert torch.equal(again, logits)


@pytest.mark.parametrize("rank", [-1, 5, 10**13])
def test_a_rank_that_the_bank_lacks_is_refused_before_memory_is_taken(trainable, rank):
    model = trainable("bert", lora={"rank": 4})
    with pytest.raises(WireError, match=f"rank is {rank}; this model's adapters have 4"):
        model.load(model.values(), rank=rank)
    model.load(model.values())


def test_values_of_another_rank_are_refused(trainable):
    model = trainable("bert", lora={"rank": 4})
    with pytest.raises(WireError, match="the length of this model's layout"):
        model.load(model.values(), rank=1)
