"""Whether a model suits a task: told from its config, its parts and one short text.

Each of these would come up in training otherwise, on every device and with a traceback.
"""

from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from fedllm_app.core.errors import ConfigError, first_line
from fedllm_app.models import own  # noqa: F401 - transformers then knows our architectures
from fedllm_app.tasks import task_of
from fedllm_app.tasks.base import padded

SOURCES = (
    "'embedded', 'scratch:NAME', an absolute folder or .gguf file, or the name of a model on the "
    "hub"
)
SENSES = ("vision", "image", "audio", "speech", "video")


def auto_model(task: str) -> Any:
    """Return the class of transformers that loads a task's model.

    Raises
    ------
    ConfigError
        If transformers has no such class.
    """
    name = task_of(task).auto_model
    found = getattr(transformers, name, None)
    if found is None:
        raise ConfigError(
            f"task.name is {task!r}, whose auto_model is {name!r}; transformers has no such class"
        )
    return found


def read_config(source: str, **overrides: Any) -> PreTrainedConfig:
    """Return the config of a folder or hub name.

    Raises
    ------
    ConfigError
        If there is none that transformers reads, or it needs code that comes with the model.
    """
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False, **overrides)
    except Exception as error:  # whatever another library raises over a file of somebody's
        raise ConfigError(
            f"model.source is {source!r}, whose config does not load: "
            f"{first_line(error).rstrip('.')}. Expected {SOURCES}"
        ) from error


def check_config(config: PreTrainedConfig, source: str, task: str, *, weights: bool = True) -> None:
    """Refuse a config that no model of the task can be made of.

    Parameters
    ----------
    source : as in model.source, named in messages.
    task : as in task.name.
    weights : whether the checkpoint's weights are read.

    Raises
    ------
    ConfigError
        If the weights are quantized, or transformers has no model of this kind for the task.
    """
    quantized = getattr(config, "quantization_config", None)
    if quantized and weights:
        given = quantized if isinstance(quantized, dict) else vars(quantized)
        method = str(given.get("quant_method", "an unnamed method"))
        raise ConfigError(
            f"model.source is {source!r}, whose config.json asks for weights quantized by "
            f"{method!r}; expected the model in float32, float16 or bfloat16 (model.dtype rules "
            "the type of the base), or a .gguf file"
        )
    kind = task_of(task)
    auto = auto_model(task)
    fits = getattr(auto, "_model_mapping", None)
    if fits is None or type(config) in fits:
        return
    senses = sorted({n for n in vars(config) if n.startswith(SENSES) and n.endswith("_config")})
    also = f", which reads more than text ({', '.join(senses)})" if senses else ""
    raise ConfigError(
        f"model.source is {source!r}, a model of type {config.model_type!r}{also}: transformers "
        f"has no {kind.auto_model} of it for task.name {task!r}; expected a model that has one, "
        f"such as {_such_as(kind.auto_model)}"
    )


def check_checkpoints(model: PreTrainedModel) -> None:
    """Refuse activation checkpoints of a model that is not made for them.

    Raises
    ------
    ConfigError
        Names the model.
    """
    if not model.supports_gradient_checkpointing:
        raise ConfigError(
            f"model.checkpointing is true, and transformers' {type(model).__name__} cannot compute "
            "its layers again; set model.checkpointing to false"
        )


def _such_as(auto: str) -> str:
    known = {
        "AutoModelForCausalLM": "GPT-2, Llama, Qwen or Mistral",
        "AutoModelForSequenceClassification": "BERT, RoBERTa, GPT-2 or Llama",
        "AutoModelForImageClassification": "ViT or DINOv2",
    }
    return known.get(auto, f"those in the documentation of {auto}")


def check_reads(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a model, with adapters in it or not, that cannot read two texts of its tokenizer.

    Raises
    ------
    ConfigError
        With what the model says, such as that its tokenizer adds no end token.
    """
    ids = [tokenizer(text)["input_ids"] or [0] for text in ("a b c d", "a")]
    batch = padded([{"input_ids": row} for row in ids], tokenizer.pad_token_id or 0)
    place = next(model.parameters()).device  # a base in few bits is on its device already
    batch = {name: tensor.to(place) for name, tensor in batch.items()}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model(**batch)
    except Exception as error:  # a model is somebody's code
        advice = "choose another model.source, model.tokenizer or lora.targets"
        if "eos" in str(error):
            advice = (
                "its head reads one end token in each text, and the tokenizer adds none, or pads "
                "with it: set model.tokenizer to another, or choose an encoder such as BERT"
            )
        raise ConfigError(
            f"model.source is a {type(model).__name__} that cannot read a text of its tokenizer: "
            f"{first_line(error).rstrip('.')}; {advice}"
        ) from error
