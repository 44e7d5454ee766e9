"""The settings of the model: namespaces `model` and `lora`."""

from typing import Literal

from pydantic import Field

from fedllm_app.core.settings import Settings

# Names that stand for a model of ours: a function from cache and task to its folder.
BACKBONES = {"embedded": "fedllm_app.demo.backbone:demo_backbone"}


class ModelSettings(Settings):
    """Namespace `model`: which backbone, and what of it is trained."""

    source: str = Field(
        "embedded", description="'embedded', an absolute folder or .gguf file, or a hub name."
    )
    init: Literal["pretrained", "random"] = Field(
        "pretrained", description="Start from the source's weights, or only from its config."
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Type of the frozen base; trainable tensors are always float32."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="Where the model computes; 'auto' is a CUDA device if this process sees one.",
    )
    dropout: bool = Field(
        False, description="Keep the backbone's own dropout; lora.dropout is separate."
    )
    train: Literal["lora", "head", "full"] = Field(
        "lora", description="Train LoRA adapters and head, the head alone, or the whole model."
    )
    tokenizer: str = Field("", description="Folder or hub name; empty means that of the source.")


class LoraSettings(Settings):
    """Namespace `lora`: size and place of the adapters."""

    rank: int = Field(16, ge=1, description="Rank of every adapter.")
    alpha: float = Field(16.0, gt=0, description="Adapters are scaled by alpha / rank.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout in front of every adapter.")
    targets: str = Field(
        "auto",
        description="'auto' (fits the architecture), 'qkv', 'all-linear', or names with commas.",
    )
    head: bool = Field(
        True, description="Train and send the classification head beside the adapters."
    )
