"""The settings of local training: namespace `client`."""

from typing import Literal

from pydantic import Field

from fedllm_app.core.settings import Settings


class ClientSettings(Settings):
    """Namespace `client`: local training."""

    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="Optimizer of local training.")
    lr: float = Field(0.05, gt=0, description="Learning rate of local training.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of local training.")
    batch: int = Field(16, ge=1, description="Number of examples in a batch.")
    epochs: int = Field(1, ge=1, description="Number of passes over the client's data in a round.")
    steps: int = Field(
        0, ge=0, description="Number of batches in a round. 0 uses client.epochs instead."
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
