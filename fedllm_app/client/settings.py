"""The settings of local training: namespace `client`."""

from typing import Literal

from pydantic import Field

from fedllm_app.core.schedule import ScheduleSettings


class ClientSettings(ScheduleSettings):
    """Namespace `client`: local training."""

    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="Local optimizer.")
    lr: float = Field(0.05, gt=0, description="Local learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd.")
    beta1: float = Field(0.9, ge=0, lt=1, description="First decay rate of adamw.")
    beta2: float = Field(0.999, ge=0, lt=1, description="Second decay rate of adamw.")
    eps: float = Field(1e-8, gt=0, description="Term in the denominator of adamw.")
    weight_decay: float = Field(0.0, ge=0, description="Local weight decay.")
    decay_all: bool = Field(
        True, description="Decay every tensor; false leaves out biases and norms (one axis)."
    )
    rule: str = Field(
        "", description="Rule of your own for local steps: MODULE:NAME; automatic is none."
    )
    rule_args: str = Field(
        "", description="Keys of a rule of your own: name=value pairs with commas."
    )
    batch: int = Field(16, ge=1, description="Examples in a batch.")
    epochs: int = Field(1, ge=1, description="Passes over the client's data in a round.")
    steps: int = Field(0, ge=0, description="Batches in a round; 0 leaves it to epochs.")
    clip_norm: float = Field(0.0, ge=0, description="Largest norm of a gradient; 0 is no limit.")
    keep_optimizer: bool = Field(
        False, description="Keep the local optimizer's state on the device from round to round."
    )
    threads: int = Field(
        0, ge=0, description="Threads of a training process; automatic is the CPUs it was given."
    )
