"""What a client does not train costs it no gradient, no optimizer state, and does not move."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from fedllm_app.client import train as training
from fedllm_app.client.kept import Kept
from fedllm_app.client.settings import ClientSettings
from fedllm_app.client.train import Device, train
from fedllm_app.core.job import Job
from fedllm_app.core.plan import ClientPlan
from fedllm_app.core.support import Derived, Draw, expand
from fedllm_app.models.adapter import wrap
from fedllm_app.models.scratch import ConformerShape, LstmShape, Shape, scratch_config
from fedllm_app.models.settings import LoraSettings, ModelSettings
from fedllm_app.tasks.next_token import NextToken
from fedllm_app.wire.codec import WireSettings

SHAPES = {
    "lstm": LstmShape(2, 16, 40, 1),
    "transformer": Shape(2, 16, 2, 1),
    "conformer": ConformerShape(2, 16, 2, 5, 1),
}
IDS = torch.randint(3, 90, (4, 8), generator=torch.Generator().manual_seed(1))
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": IDS}


@pytest.fixture
def model(request):
    torch.manual_seed(0)
    config = scratch_config(SHAPES[request.param], 90, 64, {})
    config.use_cache = False
    backbone = AutoModelForCausalLM.from_config(config)
    return wrap(backbone, ModelSettings(train="full"), LoraSettings(), 0)


def flops(model, where):
    model.model.train()
    model.freeze_outside(where)
    model.grad.zero_()
    with FlopCounterMode(display=False) as counter:
        NextToken().loss(model.logits(BATCH), BATCH).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("model", ["transformer", "conformer"], indirect=True)
def test_the_gradients_of_frozen_matrices_are_not_computed(model):
    """Two operations for each token and each entry of a matrix that is not trained."""
    layout = model.layout
    whole = flops(model, None)
    # The embeddings are trained: so activations flow through all that is frozen above them.
    frozen = [n for n in layout.names if "layers.1" in n and n.endswith("proj.weight")]
    where = expand(Derived("tensors", {"without": frozen}), layout, Draw(0))
    entries = sum(layout.span(n).stop - layout.span(n).start for n in frozen)
    assert whole - flops(model, where) == 2 * IDS.numel() * entries > 0


@pytest.mark.parametrize("model", SHAPES, indirect=True)
def test_what_is_frozen_has_no_state_and_stays(model, tmp_path, monkeypatch):
    made = []
    first = training.local_optimizer

    def seen(*how):
        made.append(first(*how))
        return made[-1]

    monkeypatch.setattr(training, "local_optimizer", seen)
    mine = Derived("random-tensors", {"share": 0.4}, ("round", "client"))
    where = expand(mine, model.layout, Draw(3, 1, "all", "ann"))
    device = Device(
        model=model, initial=model.values(), seed=3, kept=tmp_path, wire=WireSettings(),
        loss=lambda logits, rows: (NextToken().loss(logits, rows), 28),
        settings=ClientSettings(optimizer="adamw", weight_decay=0.1),
        batches=lambda *_: iter([BATCH, BATCH]),
    )  # fmt: skip
    train(device, Job(1, "ann"), ClientPlan(train=mine, up=mine), where, Kept(), {})
    moments = [t for s in made[0].state.values() for t in s.values() if t.ndim]
    assert sum(t.numel() for t in moments) == 2 * where.size < 0.9 * model.layout.size
    moved = torch.from_numpy(model.values() != device.initial)
    inside = torch.zeros(model.layout.size, dtype=torch.bool)
    inside[torch.from_numpy(where.positions())] = True
    assert not moved[~inside].any()
    assert moved[inside].float().mean() > 0.5
