"""Choose what of a backbone is trained: LoRA adapters (Hu et al. 2021) through PEFT, head, or all.

Trainable tensors are float32 whatever the base is, and have the names that PEFT saves them by.

Shapes: R rank of an adapter.
"""

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from fedllm_app.core.errors import ConfigError, first_line
from fedllm_app.core.seeds import seed_torch
from fedllm_app.models.settings import INITS, LoraSettings, ModelSettings
from fedllm_app.models.targets import (
    adapted,
    head_modules,
    inside,
    is_language_model,
    lora_targets,
)
from fedllm_app.models.trainable import TrainableModel, memory_of

log = logging.getLogger("fedllm")


def wrap(
    backbone: PreTrainedModel, model: ModelSettings, lora: LoraSettings, seed: int
) -> TrainableModel:
    """Choose what is trained, and lay it out as one flat vector.

    The backbone is changed in place. Adapters are drawn from the run's seed.

    Raises
    ------
    ConfigError
        If the settings leave a classification head untrained, or the targets do not exist.
    """
    if model.train == "lora":
        wrapped, tensors = _wrap_lora(backbone, lora, seed)
    else:
        wrapped, tensors = _choose_parameters(backbone, model)
    random_base = model.init == "random" and model.train == "lora"
    return TrainableModel(wrapped, tensors, model.train, random_base)


def _wrap_lora(
    backbone: PreTrainedModel, lora: LoraSettings, seed: int
) -> tuple[PeftModel | PreTrainedModel, dict[str, nn.Parameter]]:
    text = is_language_model(backbone)
    if not text and not lora.head:
        raise ConfigError(
            "lora.head is False; expected true for a classification task: its head is new, and "
            "would stay random"
        )
    whole = [] if text else head_modules(backbone)
    whole += [m for m in getattr(backbone, "fresh_modules", ()) if not inside(m, whole)]
    if text and whole and getattr(backbone.config, "tie_word_embeddings", False):
        raise ConfigError(
            f"model.train is 'lora', but the checkpoint lacks {', '.join(whole)}, which is tied to "
            "the embeddings and cannot be trained apart from them; set model.train to 'full'"
        )
    targets = lora_targets(backbone, lora.targets, whole)
    layers = adapted(backbone, targets)
    check_rank(layers, lora.rank)
    on_conv1d = any(isinstance(module, Conv1D) for module in layers.values())
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        modules_to_save=list(whole) or None,  # PEFT adds names of its own to this list
        fan_in_fan_out=on_conv1d,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        init_lora_weights=INITS[lora.init],
        task_type=_peft_task(backbone, text),
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT 0.21 reads a property that transformers 5 has renamed; users can do nothing about it.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        seed_torch("adapters", seed)
        try:
            model = get_peft_model(backbone, config)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"lora.targets is {lora.targets!r}, by which PEFT cannot adapt "
                f"{type(backbone).__name__}: {first_line(error).rstrip('.')}. Expected other layers"
            ) from error
    for module in whole:
        _take_float32(backbone.get_submodule(module))
    by_memory = {memory_of(p): p for p in model.parameters() if p.requires_grad}
    saved = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {  # of tied names, the first
        name: by_memory.pop(memory_of(t)) for name, t in saved.items() if memory_of(t) in by_memory
    }
    if by_memory:
        raise RuntimeError(f"PEFT trains {len(by_memory)} tensors that it would not save")
    return model, tensors


def check_rank(layers: Mapping[str, nn.Module], rank: int) -> None:
    """Refuse a rank that no layer has, and warn where some have it not.

    Parameters
    ----------
    layers : those that get adapters, by name.
    rank : of the adapters.

    Raises
    ------
    ConfigError
        If lora.rank is above the narrower side of every layer: an adapter then holds more than
        the layer it changes.
    """
    # Of a layer whose weights are held in 4 bits, only these tell its shape.
    sides = {
        name: (getattr(module, "in_features", 0), getattr(module, "out_features", 0))
        for name, module in layers.items()
    }
    widths = {
        name: min(sides[name] if all(sides[name]) else module.weight.shape)  # type: ignore[arg-type]
        for name, module in layers.items()
    }
    if widths and rank > (most := max(widths.values())):
        raise ConfigError(
            f"lora.rank is {rank}; expected at most {most}, the narrower side of the widest layer "
            "that gets an adapter: no change of it has a higher rank"
        )
    narrow = [name for name, width in widths.items() if width < rank]
    if narrow:
        log.warning(
            "lora.rank is %d, above the narrower side of %d of %d adapted layers (%s has %d): "
            "their adapters hold more values than a full change would",
            rank,
            len(narrow),
            len(widths),
            narrow[0],
            widths[narrow[0]],
        )


def _choose_parameters(
    backbone: PreTrainedModel, model: ModelSettings
) -> tuple[PeftModel | PreTrainedModel, dict[str, nn.Parameter]]:
    """Train the head (and what the checkpoint lacks) or all; tied tensors come once."""
    backbone.requires_grad_(model.train == "full")
    if model.train == "head":
        chosen = {*head_modules(backbone), *getattr(backbone, "fresh_modules", ())}
        for name in chosen:
            module = backbone.get_submodule(name)
            module.requires_grad_(True)
            _take_float32(module)
        if model.dtype != "float32" and any(
            p.requires_grad for p in backbone.get_input_embeddings().parameters()
        ):
            raise ConfigError(
                f"model.dtype is {model.dtype!r} while the head is tied to the embeddings, which "
                "makes them trainable; set model.dtype to 'float32' or model.train to 'lora'"
            )
    return backbone, {n: p for n, p in backbone.named_parameters() if p.requires_grad}


def _take_float32(module: nn.Module) -> None:
    """Let a float32 module stand behind a base of another type."""

    def upcast(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        def cast(x: Any) -> Any:
            return x.float() if isinstance(x, Tensor) and x.is_floating_point() else x

        return tuple(map(cast, args)), {k: cast(v) for k, v in kwargs.items()}

    module.register_forward_pre_hook(upcast, with_kwargs=True)


def _peft_task(backbone: PreTrainedModel, text: bool) -> TaskType | None:
    if text:
        return TaskType.CAUSAL_LM
    return TaskType.SEQ_CLS if "ForSequenceClassification" in type(backbone).__name__ else None
