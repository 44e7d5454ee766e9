"""The pruned baselines: a magnitude mask rules what is sent, what is trained and what is stepped.

All begin with one dense round: LoRA's B is zero at first, so that a magnitude mask would keep A
alone, and a masked client would never train B. That round must move B far enough: Adam's first
step is the server's learning rate in every coordinate, and below A's magnitudes the mask still
holds no B. The round that counts is the first that took a step; the state says how many did.

Shapes: P trainable parameters, K kept coordinates.
"""

import numpy as np

from fedllm_app.core.plan import ClientPlan, Outside, RoundPlan
from fedllm_app.core.support import Positions
from fedllm_app.server.methods.base import DOWN_KEYS, Inputs, Method, MethodState, one_group
from fedllm_app.server.methods.floss import dense
from fedllm_app.server.methods.sparse import BLOCKS, FEEDBACK, feedback, head, largest_positions
from fedllm_app.wire.select import largest, top_count, without

STEPPED, MASK = "stepped", "mask"


def sparse_adapter(inputs: Inputs, state: MethodState) -> tuple[RoundPlan, MethodState]:
    """Train the top `density` of abs(P) after the dense round; the rest is zero, or as it began."""
    if not stepped(state):
        return dense(inputs, state)[0], counted(state)
    mask = state[MASK] if MASK in state else positions(inputs)
    return masked(inputs, mask, "zero"), counted(state) | {MASK: mask}


def adapter_lth(inputs: Inputs, state: MethodState) -> tuple[RoundPlan, MethodState]:
    """Shrink the mask by `decay` each round after the dense one; what is pruned stays pruned.

    Round n after the dense one keeps decay^n of all coordinates, the largest among those still
    there, without rewinding.
    """
    n = stepped(state)
    if not n:
        return dense(inputs, state)[0], counted(state)
    P, whole = inputs.layout.size, head(inputs)
    candidates = without(P, state.get(MASK), whole)
    still = P - (0 if whole is None else whole.size)
    density = max(inputs.settings.decay**n, 1 / P)  # a power may be too small for a float
    mask = largest(inputs.down, top_count(still, density), candidates)
    mask = mask if whole is None else np.union1d(mask, whole)
    return masked(inputs, mask, "zero"), counted(state) | {MASK: mask}


def fed_select(inputs: Inputs, state: MethodState) -> tuple[RoundPlan, MethodState]:
    """Train a fresh top `density` of abs(P) each round; the rest waits on the server as it is."""
    if not stepped(state):
        return dense(inputs, state)[0], counted(state)
    return masked(inputs, positions(inputs), "leave"), counted(state)


def masked(inputs: Inputs, mask: np.ndarray, outside: Outside) -> RoundPlan:
    """Return a round in which the mask rules all."""
    support = Positions(mask)
    down_as = inputs.settings.down
    how = feedback(inputs)
    plan = ClientPlan(support, "zero", support, support, down_as=down_as, **how)
    if outside == "zero" and down_as == "change":  # what devices hold there
        outside = "start"
    return one_group(plan, inputs.cohort, step=support, outside=outside)


def positions(inputs: Inputs) -> np.ndarray:
    """Return the top `density` of abs(P)."""
    return largest_positions(inputs, inputs.settings.density)


def stepped(state: MethodState) -> int:
    """Return how many rounds took a step."""
    return int(state[STEPPED][0]) if STEPPED in state else 0


def counted(state: MethodState) -> dict[str, np.ndarray]:
    """Return the state one step later."""
    return dict(state) | {STEPPED: np.array([stepped(state) + 1])}


SPARSE_ADAPTER = Method(
    sparse_adapter,
    "He et al. 2022, arXiv 2210.04284; as in Raje 2024",
    "One dense round, then a fixed magnitude mask rules training and traffic.",
    keys=("density", "head", *FEEDBACK, *BLOCKS, *DOWN_KEYS),
)
ADAPTER_LTH = Method(
    adapter_lth,
    "Wu and Chen 2022, Algorithms 15(2), lottery tickets in adapters; as in Raje 2024",
    "One dense round, then a magnitude mask that shrinks each round.",
    keys=("density", "decay", "head", *FEEDBACK, *DOWN_KEYS),
)
FED_SELECT = Method(
    fed_select,
    "Charles et al. 2022, arXiv 2208.09432 (Federated Select); as in Raje 2024",
    "One dense round, then a fresh magnitude mask each round rules training and traffic.",
    keys=("density", "head", *FEEDBACK, *BLOCKS, *DOWN_KEYS),
)
