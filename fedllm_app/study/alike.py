"""When the plan of a round is that of an earlier one, so that it costs as much."""

import json

import numpy as np

from fedllm_app.core.plan import RoundPlan
from fedllm_app.core.support import Positions
from fedllm_app.server.methods.base import MethodState


def signature(plan: RoundPlan) -> str:
    """Return what the sizes of a plan of one group hang on, "" where it may differ by client."""
    words = [group.to_json() for group in plan.groups.values()]
    text = json.dumps(words, sort_keys=True)
    if len(words) != 1 or '"rule"' in text:
        return ""
    down = next(iter(plan.groups.values())).down
    return f"{down.idx.size if isinstance(down, Positions) else 'all'} {text}"


def same(state: MethodState, after: MethodState) -> bool:
    """Say whether a method's state did not change."""
    return state.keys() == after.keys() and all(np.array_equal(state[k], after[k]) for k in state)
