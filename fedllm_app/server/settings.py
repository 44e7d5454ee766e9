"""The settings of a run, its rounds and the server's step: namespaces `run`, `round`, `server`."""

import re
from typing import Literal

from pydantic import Field, field_validator

from fedllm_app.core.settings import Settings


class RunSettings(Settings):
    """Namespace `run`: its name, where it is kept, how long it is."""

    name: str = Field(
        "", description="Folder of the run and handle to resume it; automatic is made of the time."
    )
    home: str = Field("", description="Absolute path of all that is kept; automatic is ~/.fedllm.")
    seed: int = Field(0, ge=0, description="All randomness of the run comes from it.")
    rounds: int = Field(40, ge=1, description="Rounds to play.")
    checkpoint_every: int = Field(10, ge=1, description="Rounds between checkpoints.")

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise ValueError("at most 100 letters, digits, dots, dashes, underscores")
        return name


class RoundSettings(Settings):
    """Namespace `round`: who takes part, how long it may last, when to stop."""

    clients: int = Field(5, ge=1, description="Clients sampled each round.")
    timeout_s: float = Field(600.0, gt=0, description="Seconds after which a reply is late.")
    min_replies: int = Field(
        1, ge=1, description="Accepted replies below which the round takes no step."
    )
    evaluate_every: int = Field(
        10, ge=0, description="Rounds between evaluations on the server; 0: only at the end."
    )
    target: float = Field(
        0.0, ge=0, description="Stop once the metric reaches this value; 0 is never."
    )
    target_metric: str = Field(
        "", description="Metric that `target` is of; automatic is the task's first."
    )
    max_up_bytes: int = Field(
        0, ge=0, description="Stop before the round that could upload more in total; 0 is no limit."
    )
    max_down_bytes: int = Field(
        0, ge=0, description="The same for downloads, the one-time base apart; 0 is no limit."
    )
    max_seconds: float = Field(
        0.0, ge=0, description="Stop before the round that could last beyond this; 0 is no limit."
    )
    max_simulated_s: float = Field(
        0.0, ge=0, description="The same for the simulated seconds of `network`; 0 is no limit."
    )


class ServerSettings(Settings):
    """Namespace `server`: the optimizer that steps on the mean delta."""

    optimizer: Literal["", "adam", "adamw", "sgd", "adagrad"] = Field(
        "", description="Optimizer; automatic is adam, or the one the method is defined with."
    )
    lr: float = Field(0.0, ge=0, description="Learning rate; automatic: 0.01, and 1 for sgd.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Adam's first decay rate.")
    beta2: float = Field(0.999, ge=0, lt=1, description="Adam's second decay rate.")
    eps: float = Field(1e-8, gt=0, description="Adam's and Adagrad's denominator term.")
    weight_decay: float = Field(
        -1.0, ge=-1, description="Weight decay; -1 is automatic: 0.01 for adamw, 0 for the rest."
    )
    momentum: float = Field(0.0, ge=0, lt=1, description="Momentum of sgd.")
    nesterov: bool = Field(False, description="Nesterov's form of sgd's momentum.")

    @field_validator("weight_decay")
    @classmethod
    def _is_a_decay(cls, decay: float) -> float:
        if -1 < decay < 0:
            raise ValueError(f"{decay:g} is no decay; expected 0 or more, or -1 (automatic)")
        return decay

    def resolved(self, defined_with: str = "") -> "ServerSettings":
        """Return the settings with every automatic value filled in."""
        name = self.optimizer or defined_with or "adam"
        decay = self.weight_decay if self.weight_decay >= 0 else 0.01 * (name == "adamw")
        update = {"optimizer": name, "lr": self.lr or DEFAULT_LR[name], "weight_decay": decay}
        return self.model_copy(update=update)


DEFAULT_LR = {"adam": 1e-2, "adamw": 1e-2, "sgd": 1.0, "adagrad": 1e-2}
