"""The settings of the model: namespaces `model` and `lora`."""

from typing import Literal

from pydantic import Field, field_validator

from fedllm_app.core.settings import Settings

# Names that stand for a model of ours: a function from cache and task to its folder.
BACKBONES = {"embedded": "fedllm_app.demo.backbone:demo_backbone"}
INITS = {"default": True, "gaussian": "gaussian", "orthogonal": "orthogonal"}  # as PEFT has them
# These change the frozen base, which every device holds already and no message carries.
CHANGE_BASE = ("pissa", "olora", "eva", "corda", "loftq", "mica")
SCRATCH = "scratch:"  # model.source of a model from scratch begins so; models/scratch.py has them
TRAIN = "train"  # model.tokenizer of one that is trained on the run's own text


class ModelSettings(Settings):
    """Namespace `model`: which backbone, and what of it is trained."""

    source: str = Field(
        "embedded",
        description="'embedded' (the demonstration), an absolute path of a folder or .gguf "
        "file, a hub name, or 'scratch:NAME', a new decoder: micro, tiny, small, 75m, 125m, 1.3b, "
        "3b, 7b, or for devices lstm-, transformer-, conformer-, each with tiny, small and large.",
    )
    init: Literal["pretrained", "random"] = Field(
        "pretrained",
        description="'pretrained' starts from the weights of the source, 'random' uses only "
        "its config. A model from scratch is always random.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Data type of the frozen base. Trainable tensors are always float32."
    )
    quantize: Literal["", "8bit", "4bit"] = Field(
        "",
        description="Hold the frozen base in 8 or 4 bits by bitsandbytes, on a CUDA device alone "
        "(QLoRA, Dettmers et al. 2023). '' holds it in model.dtype.",
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
        "",
        description="Folder or hub name of the tokenizer, or 'train': a byte-level BPE, trained "
        "once on the training text. Empty: the tokenizer of the source.",
    )
    chat_template: str = Field(
        "",
        description="How a conversation is written (task instruction): 'plain', 'chatml', or the "
        "text of a Jinja template, saved with the result. Empty: the tokenizer's own.",
    )
    vocabulary: int = Field(
        4096,
        ge=258,
        description="Tokens of a tokenizer that is trained here: 256 bytes, two marks, and the "
        "commonest pieces of words.",
    )
    checkpointing: bool = Field(
        False,
        description="Keep the activations of whole layers only, and compute the others again on "
        "the way back: less memory, about a third more time, the same gradients.",
    )

    @property
    def scratch(self) -> bool:
        """Whether the source is a model from scratch."""
        return self.source.startswith(SCRATCH)

    @property
    def reads_weights(self) -> bool:
        """Whether training begins with the weights of the source."""
        return self.init == "pretrained" and not self.scratch


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
    rslora: bool = Field(
        False,
        description="Scale adapters by alpha / sqrt(rank), so that a high rank learns as fast as a "
        "low one (rsLoRA, Kalajdzievski 2023).",
    )
    dora: bool = Field(
        False,
        description="Train the length of each column of a layer beside the adapter of its "
        "direction (DoRA, Liu et al. 2024): a little more to send, and slower steps.",
    )
    init: str = Field(
        "default",
        description="How adapters begin: 'default' (A as a linear layer, B zero), 'gaussian' "
        "(A normal, B zero) or 'orthogonal' (neither is zero, their product is). None changes the "
        "model at first.",
    )
    head: bool = Field(
        True, description="Train and send the classification head together with the adapters."
    )

    @field_validator("init")
    @classmethod
    def _is_carried(cls, name: str) -> str:
        if name.lower().startswith(CHANGE_BASE):
            raise ValueError(
                f"one of {', '.join(INITS)}: {name!r} changes the frozen base, which every device "
                "holds already and no message carries"
            )
        if name not in INITS:
            raise ValueError(f"one of {', '.join(INITS)}")
        return name
