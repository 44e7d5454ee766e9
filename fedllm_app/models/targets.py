"""Which modules of a backbone get adapters, and which are its task head.

Names differ by architecture (`query`, `q_proj`, `c_attn`), so they are looked up in the model at
hand: a name is used only if the model has a linear layer called so.
"""

from collections.abc import Iterable

from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

from fedllm_app.core.errors import ConfigError

# Raje 2024 adapts all three kinds of GPT-2 layers; PEFT's own table has c_attn alone.
_OWN: dict[str, tuple[str, ...]] = {"gpt2": ("c_attn", "c_proj", "c_fc")}
_FUSED = (("c_attn",), ("query_key_value",), ("qkv_proj",), ("qkv",), ("Wqkv",))
_QUERY_VALUE = (
    ("query", "value"),
    ("q_proj", "v_proj"),
    ("q_lin", "v_lin"),
    ("query_proj", "value_proj"),
    ("q", "v"),
    *_FUSED,
)
_QUERY_KEY_VALUE = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("query_proj", "key_proj", "value_proj"),
    ("q", "k", "v"),
    *_FUSED,
)


def is_language_model(model: PreTrainedModel) -> bool:
    """Return whether the model predicts tokens (and so has no classification head)."""
    return type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()


def head_modules(model: PreTrainedModel) -> list[str]:
    """Return the names of the top modules with parameters that lie outside the base model."""
    return [
        name
        for name, child in model.named_children()
        if name != model.base_model_prefix and any(True for _ in child.parameters())
    ]


def lora_targets(model: PreTrainedModel, spec: str, skip: Iterable[str]) -> list[str]:
    """Return the module names that PEFT is to adapt.

    Parameters
    ----------
    model : the backbone, not wrapped yet.
    spec : "auto", "qkv", "all-linear", or comma-separated module names.
    skip : modules that are trained whole, whose inside is never adapted. Heads are skipped anyway.

    Raises
    ------
    ConfigError
        If a name is not that of a linear layer, or no preset fits the architecture.
    """
    skipped = (*skip, *head_modules(model))
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and not inside(name, skipped)
    ]
    leaves = {name.rpartition(".")[2] for name in linear}
    if spec == "all-linear":
        return linear
    if spec == "auto":
        return _first_present(_auto_candidates(model.config.model_type), leaves, spec)
    if spec == "qkv":
        return _first_present(_QUERY_KEY_VALUE, leaves, spec)
    names = [name.strip() for name in spec.split(",") if name.strip()]
    unknown = [
        name for name in names if not any(n == name or n.endswith(f".{name}") for n in linear)
    ]
    if unknown or not names:
        raise ConfigError(
            f"lora.targets is {spec!r}: {type(model).__name__} has no linear layer named "
            f"{', '.join(map(repr, unknown)) or 'so'}; expected 'auto', 'qkv', 'all-linear', "
            f"or some of {', '.join(sorted(leaves))}, separated by commas"
        )
    return names


def inside(name: str, modules: Iterable[str]) -> bool:
    """Return whether a module or tensor name is one of the modules or lies inside one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _auto_candidates(model_type: str) -> list[tuple[str, ...]]:
    theirs = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model_type, ())
    table = () if isinstance(theirs, str) else tuple(theirs)
    return [names for names in (_OWN.get(model_type, ()), table) if names] + list(_QUERY_VALUE)


def _first_present(candidates: Iterable[tuple[str, ...]], leaves: set[str], spec: str) -> list[str]:
    for names in candidates:
        if leaves.issuperset(names):
            return list(names)
    raise ConfigError(
        f"lora.targets is {spec!r}, which knows no layers of this architecture; expected "
        f"'all-linear' or some of {', '.join(sorted(leaves))}, separated by commas"
    )
