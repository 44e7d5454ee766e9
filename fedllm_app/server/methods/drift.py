"""SCAFFOLD and MimeLite: a second vector each way takes the drift of unlike clients away.

Their device rules are in `client/rules/`.

Shapes: P trainable parameters.
"""

import numpy as np

from fedllm_app.core.plan import Beside, ClientPlan, RoundPlan
from fedllm_app.server.methods.base import (
    DOWN_KEYS,
    Inputs,
    Means,
    Method,
    MethodState,
    one_group,
)

CONTROL, MOMENTUM, GRADIENT = "control", "momentum", "gradient"


def scaffold(inputs: Inputs, state: MethodState) -> tuple[RoundPlan, MethodState]:
    """Send everything and the control variate, return both changes."""
    beside = {CONTROL: Beside()}
    plan = ClientPlan(down_as=inputs.settings.down, beside_down=beside, beside_up=beside)
    control_P = state.get(CONTROL, _zeros(inputs))
    round_ = one_group(plan, inputs.cohort, vectors={CONTROL: control_P}, mirrored=(CONTROL,))
    return round_, {CONTROL: control_P}


def move_control(inputs: Inputs, state: MethodState, means: Means) -> tuple[Means, MethodState]:
    """Add |S| / N of the mean change: the control variate stays the mean of those of all clients.

    S are the clients whose replies were accepted, N those that there are.
    """
    share = inputs.replies / max(inputs.clients, inputs.replies)
    return means, {CONTROL: state[CONTROL] + means[CONTROL] * share}


def mimelite(inputs: Inputs, state: MethodState) -> tuple[RoundPlan, MethodState]:
    """Send everything and the momentum, return the change and the gradient at what came."""
    plan = ClientPlan(
        down_as=inputs.settings.down,
        beside_down={MOMENTUM: Beside()},
        beside_up={GRADIENT: Beside()},
    )
    momentum_P = state.get(MOMENTUM, _zeros(inputs))
    due_P = momentum_P * np.float32(inputs.settings.momentum)
    return one_group(plan, inputs.cohort, vectors={MOMENTUM: due_P}), {MOMENTUM: momentum_P}


def move_momentum(inputs: Inputs, state: MethodState, means: Means) -> tuple[Means, MethodState]:
    """Take the mean gradient into the momentum: s <- beta s + g, as torch has it."""
    beta = np.float32(inputs.settings.momentum)
    return means, {MOMENTUM: state[MOMENTUM] * beta + means[GRADIENT]}


def _zeros(inputs: Inputs) -> np.ndarray:
    return np.zeros(inputs.layout.size, np.float32)


SCAFFOLD = Method(
    scaffold,
    "Karimireddy et al. 2020, arXiv 1910.06378 (Algorithm 1, option II)",
    "Control variates of server and devices correct every local step.",
    keys=DOWN_KEYS,
    server={"optimizer": "sgd"},
    rule="scaffold",
    beside=(CONTROL,),
    before_step=move_control,
)
MIMELITE = Method(
    mimelite,
    "Karimireddy et al. 2020, arXiv 2008.03606 (MimeLite over SGD with momentum)",
    "Devices step with the server's momentum, which their gradients at its model update.",
    keys=("momentum", *DOWN_KEYS),
    server={"optimizer": "sgd"},
    rule="mimelite",
    beside=(MOMENTUM, GRADIENT),
    before_step=move_momentum,
)
