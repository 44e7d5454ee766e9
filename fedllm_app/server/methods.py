"""The methods, each a plan: FLoSS (Raje 2024, Algorithm 1) and the dense ones beside it.

A method is one pure function from the round's inputs to a `RoundPlan`; nothing else in the
project asks which method runs. To add one, write the function and a line in `STRATEGIES`.

Shapes: P trainable parameters.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import All, ClientPlan, Positions, RoundPlan, TopK
from fedllm_app.core.settings import Settings
from fedllm_app.wire.select import top_positions

MethodState = Mapping[str, np.ndarray]


class StrategySettings(Settings):
    """Namespace `strategy`: the method and its own parameters."""

    name: str = Field("floss", description="Method; `fedllm strategies` lists them.")
    d_down: float = Field(
        0.25, gt=0, le=1, description="Fraction of the coordinates sent down. 0.25 keeps a quarter."
    )
    d_up: float = Field(
        0.25, gt=0, le=1, description="Fraction of the coordinates sent up. 0.25 keeps a quarter."
    )


@dataclass(frozen=True)
class Inputs:
    """What a method may look at.

    Attributes
    ----------
    settings : the strategy's settings.
    layout : the trainable tensors.
    job : the round about to begin.
    params : the server's dense parameters, float32.
    cohort : clients of the round; empty when only the served model is asked for.
    """

    settings: StrategySettings
    layout: ParamLayout
    job: int
    params: np.ndarray
    cohort: Sequence[str]


PlanFunction = Callable[[Inputs, MethodState], tuple[RoundPlan, MethodState]]


@dataclass(frozen=True)
class Method:
    """A method by name.

    Attributes
    ----------
    plan : its plan of one round.
    source : where it is defined.
    about : one sentence.
    keys : the strategy settings that it reads.
    optimizer : the server optimizer it is defined with, when it is only right with that one.
    """

    plan: PlanFunction
    source: str
    about: str
    keys: tuple[str, ...] = ()
    optimizer: str = ""


def one_group(plan: ClientPlan, cohort: Sequence[str]) -> RoundPlan:
    """Return a round in which every client follows the same plan."""
    return RoundPlan(groups={"all": plan}, group_of=dict.fromkeys(cohort, "all"))


def dense(inputs: Inputs, state: MethodState) -> tuple[RoundPlan, MethodState]:
    """Send, train and return everything."""
    return one_group(ClientPlan(down=All(), train=All(), up=All()), inputs.cohort), state


def floss(inputs: Inputs, state: MethodState) -> tuple[RoundPlan, MethodState]:
    """Send the largest weights, train all, return the largest changes.

    M_down is the top `d_down` of abs(P), one global threshold over all tensors together, taken
    afresh from the dense parameters each round; what is not sent is zero on the device. Each
    device returns the top `d_up` of abs(delta) with a mask of its own.
    """
    d_down, d_up = inputs.settings.d_down, inputs.settings.d_up
    down = Positions(top_positions(inputs.params, d_down)) if d_down < 1 else All()
    up = TopK(d_up) if d_up < 1 else All()
    return one_group(ClientPlan(down=down, fill="zero", train=All(), up=up), inputs.cohort), state


STRATEGIES: dict[str, Method] = {
    "floss": Method(
        floss,
        "Raje 2024, Algorithm 1; arXiv 2406.05233",
        "LoRA trained densely, its largest entries sent each way.",
        keys=("d-down", "d-up"),
    ),
    "dense": Method(
        dense,
        "Reddi et al. 2021, arXiv 2003.00295 (FedOpt)",
        "Everything sent each way, the server optimizer steps on the mean.",
    ),
    "fedavg": Method(
        dense,
        "McMahan et al. 2017, arXiv 1602.05629",
        "Everything sent each way, the server takes the mean.",
        optimizer="sgd",
    ),
}
