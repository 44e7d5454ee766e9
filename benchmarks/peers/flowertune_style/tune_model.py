"""The model of the app: base and adapters made anew each time it is asked for."""

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM


def build(config: Mapping[str, Any]) -> nn.Module:
    """Return the base in float32 with new adapters."""
    base = AutoModelForCausalLM.from_pretrained(str(config["source"]), dtype=torch.float32)
    base.config.use_cache = False
    targets = str(config["targets"])
    lora = LoraConfig(
        r=int(config["rank"]),
        lora_alpha=float(config["alpha"]),
        lora_dropout=0.0,
        target_modules=targets if targets == "all-linear" else targets.split(","),
        task_type=TaskType.CAUSAL_LM,
    )
    return get_peft_model(base, lora)
