"""What a method is: one pure function from the round's inputs to a `RoundPlan`.

Nothing else in the project asks which method runs. docs/strategies.md explains those there are
and how to add one.

Shapes: P trainable parameters.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.job import Profile
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import MOST_SIDE, As, ClientPlan, RoundPlan
from fedllm_app.core.settings import Settings, kebab, parsed_args
from fedllm_app.server.methods.shares import numbers_of

MethodState = Mapping[str, np.ndarray]
Share = Literal["", "cohort", "senders"]
AUTOMATIC = {"feedback_decay": 1.0, "top_k": "global", "rounding": "random"}
DOWN_KEYS = ("down", "down-history")  # of every method that sends what `Inputs.down` is


class StrategySettings(Settings):
    """Namespace `strategy`: the method and its own parameters."""

    name: str = Field(
        "floss",
        description="Method. `fedllm strategies` lists them. MODULE:NAME is a method of your own.",
    )
    d_down: float = Field(
        0.25, gt=0, le=1, description="Fraction of the coordinates sent down. 0.25 keeps a quarter."
    )
    d_up: float = Field(
        0.25, gt=0, le=1, description="Fraction of the coordinates sent up. 0.25 keeps a quarter."
    )
    down: As = Field(
        "values",
        description="What goes down: the 'values', or their 'change' from the start that both "
        "sides draw from the seed. What is not sent is zero, or at the start.",
    )
    down_history: int = Field(
        0,
        ge=0,
        description="Rounds whose downloads the server remembers, 4 bytes for each parameter and "
        "round. A client that comes back within them is sent what is new since. It needs "
        "strategy.down 'change' and wire.down-values 'grid'. 0 remembers nothing.",
    )
    density: float = Field(
        0.25,
        gt=0,
        le=1,
        description="Fraction of the coordinates in the mask of a pruned method, for both "
        "directions.",
    )
    decay: float = Field(
        0.98,
        ge=0,
        lt=1,
        description="Factor that shrinks the mask of adapter-lth in each round. 0 chooses it "
        "so that the mean density over run.rounds is strategy.density.",
    )
    tier_densities: str = Field(
        "", description="Density of each tier, separated by commas. Automatic: 1/16,1/4,1."
    )
    tier_ranks: str = Field(
        "", description="Rank of each tier, separated by commas. Automatic: 1,4,16."
    )
    head: Literal["competes", "whole"] = Field(
        "competes",
        description="The classification head 'competes' with the adapters in the top-k, or is "
        "always sent 'whole'.",
    )
    mean: Share = Field(
        "",
        description="Divide the sum of the updates by the number of clients in the 'cohort', "
        "or each coordinate by the number of its 'senders'. Automatic: as the "
        "method is defined.",
    )
    args: str = Field("", description="Keys of a method of your own: name=value pairs with commas.")
    error_feedback: bool = Field(
        False,
        description="The device keeps what an upload leaves out and adds it to its next update.",
    )
    feedback_decay: float = Field(
        -1.0,
        ge=-1,
        le=1,
        description="What is kept by error feedback is multiplied by this before an update is "
        "added. 1 forgets nothing. Automatic (-1): 1, or as the method is defined; there, 0 keeps "
        "nothing.",
    )
    top_k: Literal["", "global", "block"] = Field(
        "",
        description="The largest entries are chosen of all tensors together ('global'), or of "
        "each square block of a matrix ('block'). Automatic: 'global', or as the method is "
        "defined.",
    )
    block: int = Field(
        64,
        ge=1,
        le=MOST_SIDE,
        description="Side of a block of strategy.top-k 'block'. A tensor of one axis has blocks of "
        "this number squared.",
    )
    fragments: int = Field(
        4, ge=1, description="Parts of the model that take turns: every so-manieth layer is one."
    )
    mixing: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of its own values that a device keeps where a fragment comes down.",
    )
    momentum: float = Field(
        0.9,
        ge=0,
        lt=1,
        description="Momentum of mimelite: the server keeps it, and every local step adds it.",
    )
    train_share: float = Field(
        0.4,
        gt=0,
        le=1,
        description="Share of all parameters that a client of partial training trains in a round: "
        "whole tensors, drawn anew for each client and round, at least one.",
    )
    train_always: str = Field(
        "",
        description="Patterns of names of tensors that every client trains, separated by commas, "
        "such as '*norm*,*bias*'. They count towards strategy.train-share.",
    )
    rounding: Literal["", "random", "nearest"] = Field(
        "",
        description="Few levels of uploads are rounded at 'random', so that means are right, or to "
        "the 'nearest', which needs error feedback to be right in the long run. Automatic: "
        "'random', or as the method is defined.",
    )

    @field_validator("feedback_decay")
    @classmethod
    def _is_a_share(cls, share: float) -> float:
        if -1 < share < 0:
            raise ValueError("a number from 0 to 1, or -1 (automatic)")
        return share

    @field_validator("tier_densities")
    @classmethod
    def _are_densities(cls, text: str) -> str:
        values = numbers_of(text, "fractions in (0, 1], such as '1/16,1/4,1'")
        if not all(0 < value <= 1 for value in values):
            raise ValueError("fractions in (0, 1], such as '1/16,1/4,1'")
        return text

    @field_validator("tier_ranks")
    @classmethod
    def _are_ranks(cls, text: str) -> str:
        values = numbers_of(text, "whole numbers from 1, such as '1,4,16'")
        if not all(value >= 1 and value.denominator == 1 for value in values):
            raise ValueError("whole numbers from 1, such as '1,4,16'")
        return text

    @property
    def patterns(self) -> list[str]:
        """Patterns of what every client trains."""
        return [word.strip() for word in self.train_always.split(",") if word.strip()]

    @property
    def densities(self) -> list[float]:
        """Density of each tier."""
        return [float(value) for value in numbers_of(self.tier_densities or "1/16,1/4,1")]

    @property
    def ranks(self) -> list[int]:
        """Rank of each tier."""
        return [int(value) for value in numbers_of(self.tier_ranks or "1,4,16")]


@dataclass(frozen=True)
class Inputs:
    """What a method may look at.

    Attributes
    ----------
    settings : the strategy's settings.
    layout : the trainable tensors.
    job : the round about to begin.
    params : the server's dense parameters, float32.
    initial : the values that they began with.
    cohort : clients of the round; empty when only the served model is asked for.
    seed : of the run.
    profiles : what is known of the devices of some clients.
    own : the settings of a method that brings keys of its own, None for the others.
    accepted : the last job of each client whose reply was accepted.
    clients : how many clients with examples there are.
    replies : replies of the round that were accepted; known to `Method.before_step` alone.
    """

    settings: StrategySettings
    layout: ParamLayout
    job: int
    params: np.ndarray
    initial: np.ndarray
    cohort: Sequence[str]
    seed: int = 0
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    own: Any = None
    accepted: Mapping[str, int] = field(default_factory=dict)
    clients: int = 0
    replies: int = 0

    @property
    def down(self) -> np.ndarray:
        """What goes down of every coordinate, float32 of shape (P,): what a mask is chosen by."""
        return self.params - self.initial if self.settings.down == "change" else self.params


Means = Mapping[str, np.ndarray]
BeforeStep = Callable[[Inputs, MethodState, Means], tuple[Means, MethodState]]
PlanFunction = Callable[[Inputs, MethodState], tuple[RoundPlan, MethodState]]


@dataclass(frozen=True)
class Method:
    """A method by name.

    Attributes
    ----------
    plan : its plan of one round, and its state after a round that took a step.
    source : where it is defined.
    about : one sentence.
    keys : the strategy settings that it reads.
    server : what keys of `server` are when they are left automatic, by field; {} is as they are
        for every method. One that names an optimizer is right with that one alone, and with
        `optimizers`.
    optimizers : others that it is right with.
    mean : what `strategy.mean` is when it is left automatic.
    strategy : what other keys of `strategy` are when they are left automatic, by field.
    needs_lora : it speaks of adapters, and means nothing without any.
    weights : what `round.weights` is when it is left automatic.
    own : the settings class of a method with keys of its own; `strategy.args` fills it.
    rule : the local rule that it is defined with, and right with alone; "" is right with any that
        needs no vector beside the parameters.
    beside : names of the vectors beside the parameters that its rule reads or sends. They are means
        over the replies of one round, so that all count alike and in full.
    before_step : looks at the round's means, by name of the vector, before the server steps; it
        returns the means to go on with and the method's state. A vector that nobody sent is not
        among them; "params" always is.
    """

    plan: PlanFunction
    source: str
    about: str
    keys: tuple[str, ...] = ()
    server: Mapping[str, Any] = field(default_factory=dict)
    optimizers: tuple[str, ...] = ()
    mean: Share = "cohort"
    strategy: Mapping[str, Any] = field(default_factory=dict)
    needs_lora: bool = False
    weights: Literal["uniform", "examples", "tokens"] = "uniform"
    own: type[Settings] | None = None
    rule: str = ""
    beside: tuple[str, ...] = ()
    before_step: BeforeStep | None = None

    def filled(self, settings: StrategySettings) -> StrategySettings:
        """Return the settings with the automatic values of the keys that the method reads."""
        update: dict[str, Any] = {}
        for field_, value in {**AUTOMATIC, "mean": self.mean, **self.strategy}.items():
            given = getattr(settings, field_)
            if kebab(field_) in self.keys and given in ("", -1.0):
                update[field_] = value
        if not settings.error_feedback and "error-feedback" in self.keys:
            update.pop("feedback_decay", None)  # which says nothing there
        return settings.model_copy(update=update)

    def own_settings(self, settings: StrategySettings) -> Any:
        """Return the method's own settings, None where it has none.

        Raises
        ------
        ConfigError
            If `strategy.args` does not fit them.
        """
        if self.own is None:
            if settings.args:
                raise ConfigError(
                    f"strategy.args is {settings.args!r}; expected '', since strategy.name = "
                    f"{settings.name!r} has no keys of its own"
                )
            return None
        return parsed_args("strategy.args", settings.args, self.own)


def one_group(plan: ClientPlan, cohort: Sequence[str], **how: Any) -> RoundPlan:
    """Return a round in which every client follows the same plan; `how`: mean, step, outside."""
    return RoundPlan(groups={"all": plan}, group_of=dict.fromkeys(cohort, "all"), **how)
