"""FLOPs of a step are those of torch's counter, told apart by what is trained."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaForCausalLM

from fedllm_app.models.adapter import wrap
from fedllm_app.models.flops import step_cost
from fedllm_app.models.scratch import SHAPES, scratch_config
from fedllm_app.models.settings import LoraSettings, ModelSettings
from fedllm_app.tasks.next_token import NextToken

V, B, T = 512, 4, 32


def model_of(train):
    """Return a small decoder."""
    backbone = LlamaForCausalLM(scratch_config(SHAPES["tiny"], V, T, {}))
    backbone.config.use_cache = False
    return wrap(backbone, ModelSettings(train=train), LoraSettings(), 0)


def counted(model, batch):
    """Return what torch counts of a step, padding included."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        torch.autograd.backward(NextToken().loss(model.logits(batch), batch))
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def batch():
    """Return rows of random tokens."""
    ids = torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


@pytest.mark.parametrize("train", ["full", "lora"])
def test_an_example_costs_what_torch_counts(train, batch):
    model = model_of(train)
    cost = step_cost(model, batch, NextToken().loss)
    assert cost.flops() * B == pytest.approx(counted(model, batch), rel=0.05)
    shape = SHAPES["tiny"]
    linear = shape.layers * (4 * shape.width**2 + 3 * shape.width * shape.mlp) + V * shape.width
    assert cost.forward == pytest.approx(2 * T * linear, rel=0.1)


def test_lora_saves_the_gradients_of_the_base(batch):
    full, lora = (step_cost(model_of(t), batch, NextToken().loss) for t in ("full", "lora"))
    assert full.weights == pytest.approx(full.forward, rel=0.1)
    assert lora.weights < 0.1 * full.weights
    assert 0.6 < lora.flops() / full.flops() < 0.75


def test_a_share_of_the_tensors_costs_that_share_of_their_gradients(batch):
    """Embeddings and MLPs are trained, attention is not."""
    model = model_of("full")
    cost, layout = step_cost(model, batch, NextToken().loss), model.layout
    wanted = ["embed" in name or ".mlp." in name for name in layout.names]
    share = sum(n for n, w in zip(layout.sizes, wanted, strict=True) if w) / layout.size
    for (_, parameter), w in zip(model.model.named_parameters(), wanted, strict=True):
        parameter.requires_grad_(w)
    assert cost.flops(share) * B == pytest.approx(counted(model, batch), rel=0.05)


def test_counting_leaves_the_model_as_it_was(batch):
    model = model_of("full")
    model.grad.fill_(2.0)
    before, state = model.values(), torch.get_rng_state()
    step_cost(model, batch, NextToken().loss)
    assert (model.values() == before).all()
    assert (model.grad == 2).all()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.requires_grad for p in model.model.parameters())
