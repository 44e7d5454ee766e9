"""What a method is: one pure function from the round's inputs to a `RoundPlan`.

Nothing else in the project asks which method runs. docs/strategies.md explains those there are
and how to add one.

Shapes: P trainable parameters.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.heads import Heads
from fedllm_app.core.job import Profile
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import ClientPlan, RoundPlan
from fedllm_app.core.settings import Settings, kebab, parsed_args
from fedllm_app.server.methods.settings import Share, StrategySettings
from fedllm_app.server.methods.shares import Tiers, tier_of

MethodState = Mapping[str, np.ndarray]
AUTOMATIC = {"feedback_decay": 1.0, "top_k": "global", "rounding": "random"}
DOWN_KEYS = ("down", "down-history")  # of every method that sends what `Inputs.down` is


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
    tiers : the tier of a client, of so many: by its number, or by its device.
    heads : where attention heads lie in the layout, None where there are none.
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
    heads: Heads | None = None
    tiers: Tiers = tier_of

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
    tiered : whether its plan depends on the tiers of clients, by its settings.
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
    tiered: Callable[[StrategySettings], bool] = lambda settings: False

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
