"""The settings of local training: namespace `client`."""

from typing import Literal

from pydantic import Field

from fedllm_app.core.settings import Settings


class ClientSettings(Settings):
    """Namespace `client`: local training."""

    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="Local optimizer.")
    lr: float = Field(0.05, gt=0, description="Local learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd.")
    weight_decay: float = Field(0.0, ge=0, description="Local weight decay.")
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
