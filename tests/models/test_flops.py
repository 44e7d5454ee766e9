"""FLOPs of a step are those of torch's counter, told apart by what is trained."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from fedllm_app.core.rules import HEAD_SLICES, RANDOM_TENSORS
from fedllm_app.core.support import Derived, Draw, expand
from fedllm_app.models.adapter import wrap
from fedllm_app.models.flops import step_cost
from fedllm_app.models.heads import attention_heads
from fedllm_app.models.scratch import DEVICE_SHAPES, SHAPES, scratch_config
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


SMALL = {"lstm-small": DEVICE_SHAPES, "transformer-small": DEVICE_SHAPES,
         "conformer-small": DEVICE_SHAPES, "micro": SHAPES}  # fmt: skip


@pytest.fixture(scope="module", params=SMALL)
def family(request):
    """Return a model of a family, one row, and what an example costs it."""
    backbone = AutoModelForCausalLM.from_config(
        scratch_config(SMALL[request.param][request.param], V, T, {})
    )
    backbone.config.use_cache = False
    model = wrap(backbone, ModelSettings(train="full"), LoraSettings(), 0)
    ids = torch.randint(0, V, (1, T), generator=torch.Generator().manual_seed(0))
    row = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    return model, row, step_cost(model, row, NextToken().loss)


def costs_what_torch_counts(family, rule, args, t=1):
    """Hold the cost of a part against torch's counter."""
    model, row, cost = family
    where = expand(Derived(rule, args, ("round",)), model.layout, Draw(0, t))
    model.freeze_outside(where)
    torch_counts = counted(model, row)
    model.freeze_outside(None)
    assert cost.flops(where) == pytest.approx(torch_counts, rel=0.05)
    part = cost.part(where, model.layout)
    assert part == pytest.approx(cost.flops(where) / cost.flops()) and part < 1


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_a_part_of_the_tensors_costs_what_torch_counts(family, share):
    for t in range(3):
        costs_what_torch_counts(family, RANDOM_TENSORS, {"share": share}, t)


@pytest.mark.parametrize("only", [False, True])
def test_some_heads_cost_what_torch_counts(family, only):
    if (heads := attention_heads(family[0])).of:
        costs_what_torch_counts(family, HEAD_SLICES, heads.args(0, heads.of // 4 or 1, only))


def test_a_tied_head_costs_a_product_and_an_embedding_none(batch):
    model = model_of("full")
    cost = step_cost(model, batch, NextToken().loss)
    (embed,) = (i for i, name in enumerate(model.layout.names) if "embed" in name)
    tied = model.backbone.config.tie_word_embeddings
    product = 2 * T * V * SHAPES["tiny"].width
    assert cost.backward.get(1 << embed, 0) == pytest.approx(tied * product, rel=0.1)


def test_counting_leaves_the_model_as_it_was(batch):
    model = model_of("full")
    model.grad.fill_(2.0)
    before, state = model.values(), torch.get_rng_state()
    step_cost(model, batch, NextToken().loss)
    assert (model.values() == before).all()
    assert (model.grad == 2).all()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.requires_grad for p in model.model.parameters())
