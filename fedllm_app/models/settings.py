"""The settings of the model: namespaces `model` and `lora`."""

from typing import Literal

from pydantic import Field

from fedllm_app.core.settings import Settings

# Names that stand for a model of ours: a function from cache and task to its folder.
BACKBONES = {"embedded": "fedllm_app.demo.backbone:demo_backbone"}


class ModelSettings(Settings):
    """Namespace `model`: which backbone, and what of it is trained."""

    source: str = Field(
        "embedded",
        description="'embedded' (the demonstration), an absolute path of a folder or .gguf "
        "file, or a hub name.",
    )
    init: Literal["pretrained", "random"] = Field(
        "pretrained",
        description="'pretrained' starts from the weights of the source, 'random' uses only "
        "its config.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Data type of the frozen base. Trainable tensors are always float32."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="Where the model computes. 'auto' uses a CUDA device if the process sees one.",
    )
    dropout: bool = Field(
        False, description="Keep the backbone's own dropout. lora.dropout is independent of it."
    )
    train: Literal["lora", "head", "full"] = Field(
        "lora",
        description="What is trained: 'lora' (adapters and head), 'head' alone, or 'full' "
        "(the whole model).",
    )
    tokenizer: str = Field(
        "", description="Folder or hub name of the tokenizer. Empty: the tokenizer of the source."
    )


class LoraSettings(Settings):
    """Namespace `lora`: size and place of the adapters."""

    rank: int = Field(16, ge=1, description="Rank of every adapter.")
    alpha: float = Field(
        16.0, gt=0, description="Scale of the adapters: their output is multiplied by alpha / rank."
    )
    dropout: float = Field(
        0.1, ge=0, lt=1, description="Dropout probability in front of every adapter."
    )
    targets: str = Field(
        "auto",
        description="Layers that get an adapter: 'auto' (chosen for the architecture), 'qkv', "
        "'all-linear', or names separated by commas.",
    )
    head: bool = Field(
        True, description="Train and send the classification head together with the adapters."
    )
