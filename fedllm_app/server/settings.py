"""The settings of the server's step: namespace `server`."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator

from fedllm_app.core.schedule import ScheduleSettings


class ServerSettings(ScheduleSettings):
    """Namespace `server`: the optimizer that steps on the mean delta."""

    optimizer: str = Field(
        "",
        description="Optimizer: adam, adamw, sgd, adagrad, fedadam, fedyogi, fedadagrad, "
        "delayed-nesterov, or MODULE:NAME of your own; automatic is adam, or the one the method "
        "is defined with.",
    )
    lr: float = Field(
        0.0,
        ge=0,
        description="Learning rate of the server. Automatic: 0.01, 1 for sgd, 0.7 for "
        "delayed-nesterov, or the one the method is defined with.",
    )
    beta1: float = Field(
        -1.0,
        ge=-1,
        lt=1,
        description="Decay rate of the first moment. -1 is automatic: 0.9, 0 for fedadagrad.",
    )
    beta2: float = Field(
        -1.0,
        ge=-1,
        lt=1,
        description="Decay rate of the second moment. -1 is automatic: 0.999, 0.99 for fedadam and "
        "fedyogi.",
    )
    eps: float = Field(
        0.0,
        ge=0,
        description="Epsilon in the denominator of Adam and Adagrad. Automatic: 1e-8, 0.001 for "
        "fedadam, fedyogi and fedadagrad, whose tau it is.",
    )
    weight_decay: float = Field(
        -1.0,
        ge=-1,
        description="Weight decay of the server. -1 is automatic: 0.01 for adamw, 0 for the "
        "others.",
    )
    momentum: float = Field(
        -1.0,
        ge=-1,
        lt=1,
        description="Momentum of sgd. -1 is automatic: 0, 0.9 for delayed-nesterov, or the one the "
        "method is defined with.",
    )
    momentum_period: int = Field(
        1,
        ge=1,
        description="Steps between two uses of the momentum of delayed-nesterov: as many as make "
        "up one step of all clients. 1 is Nesterov momentum at every step.",
    )
    nesterov: bool = Field(
        False,
        description="Use Nesterov momentum in sgd. A method that is defined with it always does.",
    )

    @field_validator("optimizer")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name and name not in DEFAULT_LR and ":" not in name:
            raise ValueError(f"one of {', '.join(DEFAULT_LR)}, or MODULE:NAME of your own")
        return name

    @field_validator("weight_decay", "momentum", "beta1", "beta2")
    @classmethod
    def _is_a_share(cls, share: float) -> float:
        if -1 < share < 0:
            raise ValueError(f"{share:g} means nothing; expected 0 or more, or -1 (automatic)")
        return share

    def resolved(self, defined_with: Mapping[str, Any] | None = None) -> "ServerSettings":
        """Return the settings with every automatic value filled in.

        Parameters
        ----------
        defined_with : `Method.server`.
        """
        given = defined_with or {}
        name = self.optimizer or given.get("optimizer", "adam")
        decay = self.weight_decay if self.weight_decay >= 0 else 0.01 * (name == "adamw")
        momentum = given.get("momentum", 0.9 if name == DELAYED else 0.0)
        nesterov = given.get("nesterov", False) and name == given.get("optimizer")
        moments = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8} | ADAPTIVE.get(name, {})
        update = {
            "beta1": self.beta1 if self.beta1 >= 0 else moments["beta1"],
            "beta2": self.beta2 if self.beta2 >= 0 else moments["beta2"],
            "eps": self.eps or moments["eps"],
            "optimizer": name,
            "lr": self.lr or given.get("lr", DEFAULT_LR.get(name, 1e-2)),
            "weight_decay": decay,
            "momentum": self.momentum if self.momentum >= 0 else momentum,
            "nesterov": self.nesterov or nesterov,
        }
        return self.model_copy(update=update)


DELAYED = "delayed-nesterov"
# Of Reddi et al. 2021, with their decay rates and their tau.
ADAPTIVE = {
    "fedadam": {"beta2": 0.99, "eps": 1e-3},
    "fedyogi": {"beta2": 0.99, "eps": 1e-3},
    "fedadagrad": {"beta1": 0.0, "eps": 1e-3},
}
DEFAULT_LR = {"adam": 1e-2, "adamw": 1e-2, "sgd": 1.0, "adagrad": 1e-2, DELAYED: 0.7}
DEFAULT_LR |= dict.fromkeys(ADAPTIVE, 1e-2)
