"""Which modules of a backbone get adapters, and which are its task head.

Names differ by architecture (`query`, `q_proj`, `c_attn`), so they are looked up in the model at
hand: a name is used only if the model has a linear layer called so.
"""

import logging
from collections.abc import Iterable, Mapping

from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from torch.nn.modules.conv import _ConvNd
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

from fedllm_app.core.errors import ConfigError
from fedllm_app.models.own import OWN

log = logging.getLogger("fedllm")
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
# A state-space kernel reads these weights past any adapter, and PEFT refuses them
# (`_check_lora_target_modules_mamba`).
_PAST_ADAPTERS = ("out_proj", "conv1d")
_STATE_SPACE = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")
_OTHER_SENSES = ("vision", "visual", "image", "audio", "multi_modal", "speech", "qformer")


def is_language_model(model: PreTrainedModel) -> bool:
    """Return whether the model predicts tokens (and so has no classification head)."""
    name, kind = type(model).__name__, model.config.model_type
    return name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() or kind in OWN


def head_modules(model: PreTrainedModel) -> list[str]:
    """Return the names of the top modules with parameters that lie outside the base model."""
    children = dict(model.named_children())
    base = model.base_model_prefix
    if base not in children:  # it is called otherwise: it is where tokens enter
        entry = model.get_input_embeddings()
        base = next((n for n, c in children.items() if any(m is entry for m in c.modules())), base)
    return [
        name
        for name, child in children.items()
        if name != base and any(True for _ in child.parameters())
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
    linear = adaptable(model, skip)
    leaves = {name.rpartition(".")[2] for name in linear}
    if not linear:
        raise ConfigError(
            f"lora.targets is {spec!r}: {type(model).__name__} has no linear layer below its head "
            "that an adapter fits; set model.train to 'full' or 'head', or choose another model"
        )
    if spec == "all-linear":
        _tell_what_is_left(model, list(skip))
        return list(linear)
    if spec == "auto":
        names = _first_present(_auto_candidates(model.config.model_type), leaves, spec)
        return _within(linear, names, model)
    if spec == "qkv":
        return _within(linear, _first_present(_QUERY_KEY_VALUE, leaves, spec), model)
    names = [name.strip() for name in spec.split(",") if name.strip()]
    unknown = [name for name in names if not any(ends_with(n, name) for n in linear)]
    if unknown or not names:
        raise ConfigError(
            f"lora.targets is {spec!r}: {type(model).__name__} has no linear layer that an adapter "
            f"fits named {', '.join(map(repr, unknown)) or 'so'}; expected 'auto', 'qkv', "
            f"'all-linear', or some of {', '.join(sorted(leaves))}, separated by commas"
        )
    return _within(linear, names, model)


def adaptable(model: PreTrainedModel, skip: Iterable[str] = ()) -> Mapping[str, nn.Module]:
    """Return the linear layers that an adapter fits, by name.

    Not those of heads, nor in a model that reads more than text, those that text never reaches.
    """
    skipped = (*skip, *head_modules(model))
    refused = _PAST_ADAPTERS if model.config.model_type in _STATE_SPACE else ()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
        and not inside(name, skipped)
        and name.rpartition(".")[2] not in refused
        and not (reads_text(model) and text_never_reaches(name))
    }


def adapted(model: PreTrainedModel, targets: Iterable[str]) -> dict[str, nn.Module]:
    """Return the layers that names from `lora_targets` stand for, by their whole name."""
    wanted = tuple(targets)
    return {n: m for n, m in adaptable(model).items() if any(ends_with(n, t) for t in wanted)}


def reads_text(model: PreTrainedModel) -> bool:
    """Return whether a model's input is tokens, whatever else it may read."""
    return bool(model.main_input_name == "input_ids")


def text_never_reaches(name: str) -> bool:
    """Return whether a tensor or module of a text model is for what is seen or heard."""
    return any(part.startswith(_OTHER_SENSES) for part in name.split("."))


def ends_with(path: str, name: str) -> bool:
    """Return whether a module's path ends in a name, as PEFT matches them."""
    return f".{path}".endswith(f".{name}")


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


def _within(linear: Mapping[str, nn.Module], names: list[str], model: PreTrainedModel) -> list[str]:
    """Return the names, by their whole paths where a layer that text never reaches shares one."""
    shared = reads_text(model) and any(
        text_never_reaches(path) and any(ends_with(path, name) for name in names)
        for path, _ in model.named_modules()
    )
    if not shared:
        return names
    return [path for path in linear if any(ends_with(path, name) for name in names)]


def _tell_what_is_left(model: PreTrainedModel, skip: list[str]) -> None:
    """Warn of weights below the head that no linear layer holds, such as fused experts."""
    skipped = (*skip, *head_modules(model))
    base = {n: p for n, p in model.named_parameters() if not inside(n, skipped)}
    fused = [
        name
        for name, parameter in base.items()
        if parameter.ndim >= 3
        and not isinstance(model.get_submodule(name.rpartition(".")[0]), _ConvNd)
        and not (reads_text(model) and text_never_reaches(name))
    ]
    refused = _PAST_ADAPTERS if model.config.model_type in _STATE_SPACE else ()
    fused += [n for n in base if n.endswith(tuple(f".{r}.weight" for r in refused))]
    if fused:
        left, whole = (sum(base[n].numel() for n in names) for names in (fused, base))
        log.warning(
            "lora.targets is 'all-linear', which leaves out %d tensors that are no linear layers "
            "of their own, such as fused experts: %s of %s values get no adapter, the first in "
            "%s; model.train = 'full' trains them",
            len(fused),
            f"{left:,}",
            f"{whole:,}",
            fused[0],
        )
