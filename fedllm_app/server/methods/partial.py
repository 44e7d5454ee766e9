"""Partial model training: every client trains a random part of the model, and sends that part.

Source: Ro et al. 2022 (arXiv 2204.09715, section 3), after Yang et al. 2021 (arXiv 2110.05607).
Both sides draw the variables from the run's seed, so that positions cost no bytes; what a client
does not train costs it no gradient and no state of its optimizer.

Shapes: P trainable parameters.
"""

import fnmatch

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.plan import ClientPlan, RoundPlan, TopK
from fedllm_app.core.rules import RANDOM_TENSORS
from fedllm_app.core.support import Derived
from fedllm_app.server.methods.base import (
    DOWN_KEYS,
    Inputs,
    Method,
    MethodState,
    one_group,
)
from fedllm_app.server.methods.sparse import BLOCKS, FEEDBACK, feedback, mean_of, side

PART = ("train-share", "train-always", "mean")


def partial(inputs: Inputs, state: MethodState) -> tuple[RoundPlan, MethodState]:
    """Send all, train a part that is drawn for each client and round, and return that part.

    With `strategy.mean` = "senders" a variable's change is the mean over those that trained it.
    """
    mine = part(inputs)
    plan = ClientPlan(train=mine, up=mine, down_as=inputs.settings.down)
    return one_group(plan, inputs.cohort, mean=mean_of(inputs)), state


def partial_floss(inputs: Inputs, state: MethodState) -> tuple[RoundPlan, MethodState]:
    """Do the same, and of its part return the largest changes alone, by a choice of the device."""
    mine, density = part(inputs), inputs.settings.d_up
    up = mine if density >= 1 else TopK(density, mine, side=side(inputs))
    plan = ClientPlan(train=mine, up=up, down_as=inputs.settings.down, **feedback(inputs))
    return one_group(plan, inputs.cohort, mean=mean_of(inputs)), state


def part(inputs: Inputs) -> Derived:
    """Return what a client trains: variables of a share of all parameters.

    Raises
    ------
    ConfigError
        If a pattern of `strategy.train-always` names no variable.
    """
    settings, names = inputs.settings, inputs.layout.names
    always = settings.patterns
    for pattern in always:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"strategy.train-always has {pattern!r}, which names none of the {len(names)} "
                f"tensors that are trained; the first is {names[0]!r}, the last {names[-1]!r}"
            )
    return Derived(
        RANDOM_TENSORS,
        {"share": settings.train_share} | ({"always": always} if always else {}),
        per=("round", "client"),
    )


PARTIAL = Method(
    partial,
    "Ro et al. 2022, arXiv 2204.09715",
    "Each client trains and sends a random part of the variables.",
    keys=(*PART, *DOWN_KEYS),
    mean="senders",
)
PARTIAL_FLOSS = Method(
    partial_floss,
    "Ro et al. 2022, arXiv 2204.09715; with the upload of Raje 2024, arXiv 2406.05233",
    "Each client trains a random part, and sends the largest changes in it.",
    keys=(*PART, "d-up", *FEEDBACK, *BLOCKS, *DOWN_KEYS),
    mean="senders",
)
