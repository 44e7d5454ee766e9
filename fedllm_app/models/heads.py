"""Find the attention heads of a loaded model among its trainable tensors.

Names differ by architecture, so modules are looked up by what they are called; their shapes say
whether they are what they seem. Of a fused projection neither says in which order its rows lie
(CodeGen's go by four shards), so it is cut only in architectures that are named here; the test
holds each against gradients. core/heads.py has the vocabulary.

Shapes: H query heads, G key-value groups (the units), D width of a head.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from fedllm_app.core.heads import Block, Heads
from fedllm_app.core.layout import ParamLayout
from fedllm_app.models.trainable import TrainableModel

SEPARATE = (
    "q_proj", "k_proj", "v_proj", "query", "key", "value", "q_lin", "k_lin", "v_lin",
    "query_proj", "key_proj", "value_proj",
)  # fmt: skip
FUSED = ("query_key_value", "c_attn", "qkv_proj", "Wqkv", "qkv")
BY_HEAD = "by-head"  # rows go unit by unit: its queries, its key, its value
IN_BLOCKS = "in-blocks"  # all queries, then all keys, then all values
ORDERS = {
    "bloom": BY_HEAD, "falcon": BY_HEAD, "gpt_bigcode": BY_HEAD, "gpt_neox": BY_HEAD,
    "gpt_neox_japanese": BY_HEAD, "persimmon": BY_HEAD,
    "gpt2": IN_BLOCKS, "modernbert": IN_BLOCKS, "mpt": IN_BLOCKS, "openai-gpt": IN_BLOCKS,
    "phi3": IN_BLOCKS,
}  # fmt: skip
# Architectures whose heads are no rows of their own, though the shapes would fit.
MIXED = {"diffllama": "its heads subtract and share the values of heads of the other half"}
OUT = ("o_proj", "out_proj", "out_lin", "c_proj", "dense", "Wo")


@dataclass
class _Found:
    """Patterns by kind."""

    rows: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)


def attention_heads(model: TrainableModel) -> Heads:
    """Return where the units of attention lie; `Heads.why` says why where they are not found.

    They are not where the model has no attention, where nothing of it is trained, or where a
    projection has another shape than its config says, or an order of rows that is not known.
    """
    config = getattr(model.backbone, "config", None)
    H = _number(config, "num_attention_heads", "n_head", "n_heads", "num_heads")
    if config is None or not H:
        return unknown("its config names no attention heads")
    G = _number(config, "num_key_value_heads", "num_kv_heads") or H
    width = _number(config, "hidden_size", "n_embd", "d_model", "dim")
    D = _number(config, "head_dim") or width // H
    if H % G or not D:
        return unknown(f"its config has {H} heads, {G} key-value heads and a width of {width}")
    family = config.model_type
    if why := MIXED.get(family, ""):
        return unknown(why)
    found, order = _Found(), ORDERS.get(family, "")
    for name, module, kind in _projections(model.backbone):
        if kind in FUSED and not order:
            return unknown(
                f"{name} holds queries, keys and values together, in an order that is not known "
                f"for {family!r}; it is for {', '.join(ORDERS)}"
            )
        if not _shaped(module, kind, H, G, D):
            return unknown(
                f"{name} has another shape than {H} heads of {D} and {G} key-value heads"
            )
        kind = order if kind in FUSED else kind
        _put(found, model.layout, name, module, kind, (H * D, G * D, G * D))
    if not (found.rows or found.columns or found.blocks):
        return unknown("no projection of attention is trained")
    return Heads(G, _once(found.rows), _once(found.columns), tuple(dict.fromkeys(found.blocks)))


def unknown(why: str) -> Heads:
    """Return that no heads are known."""
    return Heads(0, why=why)


def _number(config: Any, *names: str) -> int:
    values = [getattr(config, name, None) for name in names]
    return next((int(v) for v in values if isinstance(v, int) and not isinstance(v, bool)), 0)


def _projections(backbone: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield name, module and kind of every projection of attention."""
    modules = dict(backbone.named_modules())
    for name, module in modules.items():
        own = {child for child, _ in module.named_children()}
        kinds = {k for k in SEPARATE if k in own}
        fused = next((k for k in FUSED if k in own), "")
        if len(kinds) < 3 and not fused:
            continue
        for kind in kinds:
            yield f"{name}.{kind}", modules[f"{name}.{kind}"], "value" if "v" in kind else kind
        if fused:
            yield f"{name}.{fused}", modules[f"{name}.{fused}"], fused
        beside = name.rpartition(".")[0]
        for out in (*(f"{name}.{o}" for o in OUT), f"{beside}.output.dense"):
            if out in modules:
                yield out, modules[out], "out"
                break


def _shaped(module: nn.Module, kind: str, H: int, G: int, D: int) -> bool:
    """Say whether a projection has the shape of its kind."""
    weight = getattr(getattr(module, "base_layer", module), "weight", None)
    if weight is None or weight.dim() != 2:
        return False
    conv = isinstance(getattr(module, "base_layer", module), Conv1D)
    outputs, inputs = reversed(weight.shape) if conv else weight.shape
    if kind == "out":
        return bool(inputs == H * D)
    if kind in FUSED:
        return bool(outputs == (H + 2 * G) * D)
    return outputs in (H * D, G * D)


def _put(found: _Found, layout: ParamLayout, name: str, module: nn.Module, kind: str,
         parts: tuple[int, int, int]) -> None:  # fmt: skip
    """Add the patterns of a projection's tensors that are trained."""
    conv = isinstance(getattr(module, "base_layer", module), Conv1D)
    trained = [n for n in layout.names if f".{name}." in f".{n}"]
    for tensor in trained:
        pattern = re.sub(r"(?<=\.)\d+(?=\.)", "*", tensor)
        last = f".{tensor}".rpartition(f".{name}.")[2]
        if kind == "out":  # inputs are cut
            if last.startswith("lora_A") or (last == "weight" and not conv):
                found.columns.append(pattern)
            elif last == "weight":
                found.rows.append(pattern)
        elif last.startswith("lora_B") or last == "bias" or (last == "weight" and not conv):
            _outputs(found, pattern, kind, 0, parts)
        elif last == "weight":
            _outputs(found, pattern, kind, 1, parts)


def _outputs(
    found: _Found, pattern: str, kind: str, axis: int, parts: tuple[int, int, int]
) -> None:
    """Add a tensor whose outputs, along an axis, are cut."""
    if kind == IN_BLOCKS:
        found.blocks.append((pattern, axis, parts))
    else:
        (found.columns if axis else found.rows).append(pattern)


def _once(patterns: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(patterns))
