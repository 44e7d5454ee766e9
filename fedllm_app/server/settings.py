"""The settings of the server's step: namespace `server`."""

from pydantic import Field, field_validator

from fedllm_app.core.schedule import ScheduleSettings


class ServerSettings(ScheduleSettings):
    """Namespace `server`: the optimizer that steps on the mean delta."""

    optimizer: str = Field(
        "",
        description="Optimizer: adam, adamw, sgd, adagrad, or MODULE:NAME of your own; automatic "
        "is adam, or the one the method is defined with.",
    )
    lr: float = Field(
        0.0, ge=0, description="Learning rate of the server. Automatic: 0.01, and 1 for sgd."
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay rate of Adam's first moment.")
    beta2: float = Field(0.999, ge=0, lt=1, description="Decay rate of Adam's second moment.")
    eps: float = Field(1e-8, gt=0, description="Epsilon in the denominator of Adam and Adagrad.")
    weight_decay: float = Field(
        -1.0,
        ge=-1,
        description="Weight decay of the server. -1 is automatic: 0.01 for adamw, 0 for the "
        "others.",
    )
    momentum: float = Field(0.0, ge=0, lt=1, description="Momentum of sgd.")
    nesterov: bool = Field(False, description="Use Nesterov momentum in sgd.")

    @field_validator("optimizer")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name and name not in DEFAULT_LR and ":" not in name:
            raise ValueError(f"one of {', '.join(DEFAULT_LR)}, or MODULE:NAME of your own")
        return name

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
        update = {
            "optimizer": name,
            "lr": self.lr or DEFAULT_LR.get(name, 1e-2),
            "weight_decay": decay,
        }
        return self.model_copy(update=update)


DEFAULT_LR = {"adam": 1e-2, "adamw": 1e-2, "sgd": 1.0, "adagrad": 1e-2}
