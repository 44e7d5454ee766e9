"""The settings of a run and of its rounds: namespaces `run` and `round`."""

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
    weights: Literal["", "uniform", "examples", "tokens"] = Field(
        "",
        description="How much a reply counts in the mean: all alike, or by the client's examples "
        "or by the tokens of its training; automatic is as the method is defined.",
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
