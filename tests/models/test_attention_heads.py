"""Attention heads in the tensors of real architectures, and gradients of some of them alone."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

from fedllm_app.core.region import Region
from fedllm_app.core.rules import HEAD_SLICES
from fedllm_app.core.support import Derived, Draw, expand
from fedllm_app.models.adapter import wrap
from fedllm_app.models.heads import attention_heads
from fedllm_app.models.lstm import LstmConfig, LstmForCausalLM
from fedllm_app.models.settings import LoraSettings, ModelSettings

V, T, D, H = 20, 6, 4, 4
WIDE = {"vocab_size": V, "hidden_size": D * H, "num_hidden_layers": 2, "num_attention_heads": H,
        "intermediate_size": 24, "pad_token_id": 0}  # fmt: skip


def llama():
    return LlamaForCausalLM(LlamaConfig(**WIDE, num_key_value_heads=2))


def gpt2():
    sizes = {"vocab_size": V, "n_embd": D * H, "n_layer": 2, "n_head": H, "n_positions": 16}
    off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return GPT2LMHeadModel(GPT2Config(**sizes, **off))


def phi3():
    return Phi3ForCausalLM(Phi3Config(**WIDE, num_key_value_heads=2))


def neox():
    return GPTNeoXForCausalLM(GPTNeoXConfig(**WIDE))


def bert():
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForSequenceClassification(BertConfig(**WIDE, **off, num_labels=V))


MADE = {"llama": (llama, 2), "gpt2": (gpt2, 4), "phi3": (phi3, 2), "neox": (neox, 4),
        "bert": (bert, 4)}  # fmt: skip
OUT = {"llama": "o_proj", "gpt2": "attn.c_proj", "phi3": "o_proj", "neox": "attention.dense",
       "bert": "attention.output.dense"}  # fmt: skip


def model_of(name, train="full"):
    """Return a model; with LoRA on every linear layer, whose B is not zero."""
    torch.manual_seed(3)
    lora = LoraSettings(rank=3, alpha=3.0, dropout=0.0, targets="all-linear")
    model = wrap(MADE[name][0](), ModelSettings(train=train), lora, 0)
    with torch.no_grad():
        model.flat.add_(0.1 * torch.randn(model.flat.shape))
    return model


def gradient(model):
    """Return the gradient of a loss over a fixed batch, float32 of shape (P,)."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, V, (3, T), generator=generator)
    model.zero_grad()
    logits = model.logits({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
    (logits * torch.randn(logits.shape, generator=generator)).sum().backward()
    return model.grad.numpy().copy()


def region(model, first, heads=1, only=True):
    """Return the coordinates of some units."""
    args = attention_heads(model).args(first, heads, only)
    return expand(Derived(HEAD_SLICES, args, ("round",)), model.layout, Draw(0, 1))


@pytest.mark.parametrize("train", ["full", "lora"])
@pytest.mark.parametrize("name", MADE)
def test_a_unit_that_the_output_ignores_has_no_gradient_and_every_other_has(name, train):
    model = model_of(name, train)
    heads = attention_heads(model)
    assert heads.of == MADE[name][1]
    units = [set(region(model, u).positions().tolist()) for u in range(heads.of)]
    assert sum(map(len, units)) == len(set.union(*units))  # disjoint
    # Nothing of unit 0 reaches the output: its columns of W_o are zero, adapter and base.
    mine = np.array(sorted(units[0]))
    sizes = dict(zip(model.layout.names, model.layout.sizes, strict=True))
    for layer, module in model.backbone.named_modules():
        if layer.endswith(OUT[name]):
            base = getattr(module, "base_layer", module).weight
            ignore(base.data, heads, name)
            for adapter in getattr(module, "lora_A", {}).values():
                ignore(adapter.weight.data, heads, "linear")
    found = gradient(model)
    inside = [n for n in model.layout.names if OUT[name] in n]
    out = np.zeros(model.layout.size, bool)
    for n in inside:
        out[model.layout.span(n)] = True
    dead = mine[~out[mine]]
    assert dead.size and np.abs(found[dead]).max() < 1e-6
    for other in units[1:]:
        alive = np.array(sorted(other))
        alive = alive[~out[alive]]
        assert (np.abs(found[alive]) > 1e-7).mean() > 0.5
    assert sizes


def ignore(weight, heads, name):
    """Set what the output projection reads of the unit that is dealt first to zero."""
    order = expand_order(heads.of)
    width = H // heads.of * D
    begin = order[0] * width
    if name == "gpt2":  # (inputs, outputs)
        weight[begin : begin + width] = 0
    else:
        weight[:, begin : begin + width] = 0


def expand_order(of):
    """Return the units in the order in which round 1 deals them."""
    from fedllm_app.core.layout import ParamLayout

    layout = ParamLayout(("q",), ((of,),))
    args = {"rows": ["q"], "columns": [], "of": of, "heads": 1}
    rule = [Derived(HEAD_SLICES, args | {"first": u}, ("round",)) for u in range(of)]
    return [int(expand(one, layout, Draw(0, 1)).positions()[0]) for one in rule]


@pytest.mark.parametrize("train", ["full", "lora"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_gradient_of_some_heads_is_that_part_of_the_whole(name, train):
    model = model_of(name, train)
    whole = gradient(model)
    where = region(model, 1)
    assert isinstance(where, Region)
    model.freeze_outside(where)
    part, mine = gradient(model), np.zeros(whole.size, bool)
    mine[where.positions()] = True
    assert part[mine] == pytest.approx(whole[mine], abs=1e-5)
    cut = [n for n in model.layout.names if (n.endswith("weight") and "proj" in n) or "c_attn" in n]
    for n in cut:
        span = model.layout.span(n)
        two_axes = len(model.layout.shapes[model.layout.names.index(n)]) == 2
        if mine[span].any() and two_axes:
            assert not part[span][~mine[span]].any(), n
    model.freeze_outside(None)
    assert gradient(model) == pytest.approx(whole, abs=1e-6)


def test_the_pass_backward_skips_the_heads_that_are_frozen():
    model, counted = model_of("llama"), {}
    for heads in (1, 2):
        model.freeze_outside(region(model, 0, heads))
        with FlopCounterMode(display=False) as counter:
            gradient(model)
        counted[heads] = counter.get_total_flops()
    # Two layers; 18 tokens; half of 16 x 16 for q and o and of 8 x 16 for k and v.
    assert counted[2] - counted[1] == 2 * 2 * 18 * (8 * 16 * 2 + 4 * 16 * 2)


def test_a_model_without_attention_has_no_heads():
    sizes = {"vocab_size": V, "hidden_size": 8, "cell_size": 16, "num_hidden_layers": 1}
    model = wrap(LstmForCausalLM(LstmConfig(**sizes)), ModelSettings(train="full"),
                 LoraSettings(), 0)  # fmt: skip
    assert attention_heads(model) is None
    head = wrap(bert(), ModelSettings(train="head"), LoraSettings(), 0)
    assert attention_heads(head) is None


def test_mixed_precision_cuts_the_same_heads():
    model = model_of("llama")
    where = region(model, 0)
    model.freeze_outside(where)
    exact = gradient(model)
    with torch.autocast("cpu", torch.bfloat16):
        rough = gradient(model)
    mine = where.positions()
    assert np.abs(rough[mine] - exact[mine]).max() < 0.1 * np.abs(exact[mine]).max()
