"""Attention heads in the tensors of real architectures, and gradients of some of them alone."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.pytorch_utils import Conv1D

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.region import Region
from fedllm_app.core.rules import HEAD_SLICES
from fedllm_app.core.support import Derived, Draw, expand
from fedllm_app.models.adapter import wrap
from fedllm_app.models.heads import ORDERS, OUT, attention_heads
from fedllm_app.models.lstm import LstmConfig, LstmForCausalLM
from fedllm_app.models.settings import LoraSettings, ModelSettings
from fedllm_app.server.methods.base import Inputs
from fedllm_app.server.methods.heads import HEADS
from fedllm_app.server.methods.settings import StrategySettings

V, T, D, H = 20, 6, 4, 8
WIDE = {"vocab_size": V, "hidden_size": D * H, "num_hidden_layers": 2, "num_attention_heads": H,
        "intermediate_size": 24, "pad_token_id": 0}  # fmt: skip
GROUPED = WIDE | {"num_key_value_heads": 4}
SHORT = {"vocab_size": V, "n_embd": D * H, "n_layer": 2, "n_head": H, "n_positions": 16}
OPT = WIDE | {"ffn_dim": 24, "word_embed_proj_dim": D * H}
FALCON = WIDE | {"alibi": False}
# Model type, its config, units of attention.
MADE = {
    "llama": ("llama", GROUPED, 4),
    "qwen3": ("qwen3", GROUPED | {"head_dim": 6}, 4),
    "phi": ("phi", WIDE, 8),
    "gptj": ("gptj", SHORT | {"rotary_dim": 2}, 8),
    "gpt_neo": ("gpt_neo", {"vocab_size": V, "hidden_size": D * H, "num_layers": 2, "num_heads": H,
                            "attention_types": [[["global"], 2]]}, 8),
    "opt": ("opt", OPT, 8),
    "bert": ("bert", WIDE, 8),
    "albert": ("albert", WIDE | {"embedding_size": 8}, 8),
    "distilbert": ("distilbert", {"vocab_size": V, "dim": D * H, "n_heads": H, "n_layers": 2,
                                  "hidden_dim": 24}, 8),
    "deberta-v2": ("deberta-v2", WIDE | {"relative_attention": True, "pos_att_type": "c2p|p2c",
                                         "position_biased_input": False}, 8),
    "bloom": ("bloom", {"vocab_size": V, "hidden_size": D * H, "n_layer": 2, "n_head": H}, 8),
    "falcon": ("falcon", FALCON | {"multi_query": False}, 8),
    "falcon-grouped": ("falcon", FALCON | {"new_decoder_architecture": True, "num_kv_heads": 4}, 4),
    "falcon-one": ("falcon", FALCON | {"multi_query": True, "num_kv_heads": 1}, 1),
    "gpt_bigcode": ("gpt_bigcode", SHORT | {"multi_query": False}, 8),
    "gpt_bigcode-one": ("gpt_bigcode", SHORT | {"multi_query": True}, 1),
    "gpt_neox": ("gpt_neox", WIDE, 8),
    "gpt_neox_japanese": ("gpt_neox_japanese", WIDE, 8),
    "persimmon": ("persimmon", WIDE, 8),
    "gpt2": ("gpt2", SHORT, 8),
    "modernbert": ("modernbert", WIDE, 8),
    "mpt": ("mpt", {"vocab_size": V, "d_model": D * H, "n_layers": 2, "n_heads": H,
                    "max_seq_len": 16}, 8),
    "openai-gpt": ("openai-gpt", SHORT, 8),
    "phi3": ("phi3", GROUPED, 4),
}  # fmt: skip


def backbone_of(name):
    """Return a tiny model of an architecture, drawn at random."""
    kind, words, _ = MADE[name]
    config = CONFIG_MAPPING[kind](**words)
    config.num_labels, config.use_cache = V, False
    causal = type(config) in AutoModelForCausalLM._model_mapping
    named = kind not in ("bert", "albert", "modernbert")
    made = AutoModelForCausalLM if causal and named else AutoModelForSequenceClassification
    return made.from_config(config)


def model_of(name, train="full"):
    """Return a model; with LoRA on every linear layer, whose B is not zero."""
    torch.manual_seed(3)
    lora = LoraSettings(rank=3, alpha=3.0, dropout=0.0, targets="all-linear")
    model = wrap(backbone_of(name), ModelSettings(train=train), lora, 0)
    with torch.no_grad():
        model.flat.add_(0.1 * torch.randn(model.flat.shape))
    model.model.eval()
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


def marked(model, where):
    """Return of every tensor, by name, which of its entries are meant."""
    flat = torch.zeros(model.layout.size)
    flat[where.positions()] = 1
    return {n: t > 0 for n, t in model.layout.unflatten(flat).items()}


def ignore(model, mine):
    """Set what W_o reads of a unit to zero, in the adapters and in what lies under them."""
    modules = dict(model.model.named_modules())
    values = model.layout.unflatten(model.flat)
    for name in filter(is_out, mine):
        values[name][mine[name]] = 0
        if ".lora_A" in name:
            base = modules[name.partition(".lora_A")[0]].base_layer
            read = mine[name].any(0)
            (base.weight.data.T if isinstance(base, Conv1D) else base.weight.data)[:, read] = 0


def is_out(name):
    """Say whether a tensor of attention is of the projection behind the heads."""
    return name.partition(".lora_A")[0].removesuffix(".weight").rpartition(".")[2] in OUT


@pytest.mark.parametrize("train", ["full", "lora"])
@pytest.mark.parametrize("name", MADE)
def test_exactly_the_rows_of_a_unit_that_the_output_ignores_have_no_gradient(name, train):
    model = model_of(name, train)
    first, seen = model.values(), np.zeros(model.layout.size, int)
    bases = {n: p.detach().clone() for n, p in model.model.named_parameters()}
    assert attention_heads(model).of == MADE[name][2]
    for u in range(min(MADE[name][2], 2)):
        model.load(first)
        model.model.load_state_dict(bases, strict=False)
        seen[region(model, u).positions()] += 1
        mine = {n: mask for n, mask in marked(model, region(model, u)).items() if mask.any()}
        assert any(map(is_out, mine))
        ignore(model, mine)
        found = model.layout.unflatten(torch.from_numpy(gradient(model)))
        rows = [n for n in mine if not is_out(n)]
        assert any(n.endswith("weight") for n in rows)
        for n in rows:
            of_rows, unit = found[n].abs(), mine[n]
            if unit.ndim == 2:  # the axis that is cut: of outputs
                across = 1 if (unit == unit[:, :1]).all() else 0
                of_rows, unit = of_rows.amax(across), unit.any(across)
                assert (of_rows[~unit] > 0).all(), n
            assert (of_rows[unit] == 0).all(), n
    assert seen.max() == 1  # disjoint


def test_every_architecture_with_a_fused_projection_that_is_cut_is_proven():
    assert ORDERS.keys() <= {kind for kind, _, _ in MADE.values()}


def test_heads_that_share_values_across_halves_are_refused():
    config = CONFIG_MAPPING["diffllama"](**GROUPED)
    model = wrap(AutoModelForCausalLM.from_config(config), ModelSettings(train="full"),
                 LoraSettings(), 0)  # fmt: skip
    assert "other half" in attention_heads(model).why


def test_a_fused_projection_whose_order_is_not_known_is_refused():
    """CodeGen's rows go by four shards, each with queries, values and keys."""
    config = CONFIG_MAPPING["codegen"](**SHORT, n_ctx=16, rotary_dim=2)
    model = wrap(AutoModelForCausalLM.from_config(config), ModelSettings(train="full"),
                 LoraSettings(), 0)  # fmt: skip
    assert not attention_heads(model).of
    assert "qkv_proj holds queries, keys and values together" in attention_heads(model).why
    inputs = Inputs(StrategySettings(), model.layout, 1, model.values(), model.values(), ["a"],
                    heads=attention_heads(model))  # fmt: skip
    with pytest.raises(ConfigError, match="in an order that is not known for 'codegen'"):
        HEADS.plan(inputs, {})


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
    # Two layers; 18 tokens; a quarter of 32 x 32 for q and o and of 16 x 32 for k and v.
    assert counted[2] - counted[1] == 2 * 2 * 18 * (8 * 32 * 2 + 4 * 32 * 2)


def test_a_model_without_attention_has_no_heads():
    sizes = {"vocab_size": V, "hidden_size": 8, "cell_size": 16, "num_hidden_layers": 1}
    model = wrap(LstmForCausalLM(LstmConfig(**sizes)), ModelSettings(train="full"),
                 LoraSettings(), 0)  # fmt: skip
    assert not attention_heads(model).of
    head = wrap(backbone_of("bert"), ModelSettings(train="head"), LoraSettings(), 0)
    assert attention_heads(head).why == "no projection of attention is trained"


def test_mixed_precision_cuts_the_same_heads():
    model = model_of("llama")
    where = region(model, 0)
    model.freeze_outside(where)
    exact = gradient(model)
    with torch.autocast("cpu", torch.bfloat16):
        rough = gradient(model)
    mine = where.positions()
    assert np.abs(rough[mine] - exact[mine]).max() < 0.1 * np.abs(exact[mine]).max()
