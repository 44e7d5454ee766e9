"""The model of the example-style app: a fresh PEFT model each time it is asked for."""

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)


def build(config: Mapping[str, Any]) -> nn.Module:
    """Return the backbone with new adapters; its own dropout is off."""
    source, labels = str(config["source"]), int(config["labels"])
    shape = AutoConfig.from_pretrained(source)
    for name, value in vars(shape).items():
        if "drop" in name and isinstance(value, float):
            setattr(shape, name, 0.0)
    shape.use_cache = False
    if labels:
        shape.num_labels, shape.problem_type = labels, "single_label_classification"
    kind = AutoModelForSequenceClassification if labels else AutoModelForCausalLM
    base = kind.from_pretrained(source, config=shape, dtype=torch.float32)
    lora = LoraConfig(
        r=int(config["rank"]),
        lora_alpha=float(config["alpha"]),
        lora_dropout=float(config["dropout"]),
        target_modules=str(config["targets"]).split(","),
        task_type=TaskType.SEQ_CLS if labels else TaskType.CAUSAL_LM,
    )
    return get_peft_model(base, lora)
