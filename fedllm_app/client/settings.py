"""The settings of local training: namespace `client`."""

from typing import Literal

from pydantic import Field

from fedllm_app.core.schedule import ScheduleSettings

STREAM, WRAP = "stream", "wrap"


class ClientSettings(ScheduleSettings):
    """Namespace `client`: local training."""

    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="Optimizer of local training.")
    lr: float = Field(0.05, gt=0, description="Learning rate of local training.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd.")
    beta1: float = Field(0.9, ge=0, lt=1, description="First decay rate of adamw.")
    beta2: float = Field(0.999, ge=0, lt=1, description="Second decay rate of adamw.")
    eps: float = Field(1e-8, gt=0, description="Term in the denominator of adamw.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of local training.")
    decay_all: bool = Field(
        True, description="Decay every tensor; false leaves out biases and norms (one axis)."
    )
    rule: str = Field(
        "",
        description="Rule for local steps: fedprox, scaffold, mimelite, or MODULE:NAME of your "
        "own; automatic is none, or the one the method is defined with.",
    )
    rule_args: str = Field(
        "", description="Keys of the rule for local steps, such as mu=0.1 of fedprox."
    )
    batch: int = Field(16, ge=1, description="Number of examples in a batch.")
    micro_batch: int = Field(
        0,
        ge=0,
        description="Examples that go through the model at once; a larger batch goes in parts, "
        "with the same gradient up to rounding. 0: the whole batch.",
    )
    autocast: Literal["", "bfloat16"] = Field(
        "",
        description="Type in which the forward pass multiplies (mixed precision), where the "
        "processor has it: '' is float32.",
    )
    epochs: int = Field(1, ge=1, description="Number of passes over the client's data in a round.")
    steps: int = Field(
        0, ge=0, description="Number of batches in a round. 0 uses client.epochs instead."
    )
    reading: Literal["", "epochs", "stream"] = Field(
        "",
        description="How a client goes through its examples: all of them in every round "
        '("epochs"), or each once, from where its last accepted round ended ("stream"). Automatic: '
        "as the task is defined.",
    )
    stream_end: Literal["stop", "wrap"] = Field(
        "stop",
        description='What a client does whose stream has no more rows for a round: "stop", or '
        'begin again in another order ("wrap").',
    )
    clip_norm: float = Field(
        0.0,
        ge=0,
        description="Maximum norm of a gradient; larger gradients are scaled down. 0 means no "
        "limit.",
    )
    keep_optimizer: bool = Field(
        False, description="Keep the state of the local optimizer on the device between rounds."
    )
    threads: int = Field(
        0,
        ge=0,
        description="Number of threads of a training process. Automatic: the CPUs that the "
        "process may use.",
    )
