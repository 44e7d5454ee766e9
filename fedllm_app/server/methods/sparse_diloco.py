"""DiLoCo that sends the largest sixty-fourth of each block (SparseLoCo, arXiv 2508.15706).

As its authors' production code has it, but with the outer rate applied once:

    e <- beta e + delta                 what was left over, and this round's change
    s = Q(largest of every block of e)  few levels, to the nearest
    e <- e - s                          the rounding error stays in e, too
    P <- P - alpha mean(s)              per coordinate over those who sent it; plain SGD
"""

from dataclasses import replace

from fedllm_app.core.plan import ClientPlan, RoundPlan
from fedllm_app.core.support import All
from fedllm_app.server.methods.base import DOWN_KEYS, Inputs, Method, MethodState, one_group
from fedllm_app.server.methods.sparse import BLOCKS, feedback, largest_up, mean_of

KEPT = ("feedback-decay", "rounding")


def sparse_diloco(inputs: Inputs, state: MethodState) -> tuple[RoundPlan, MethodState]:
    """Send everything, train everything, return the largest `d_up` of what is due."""
    settings = SPARSE_DILOCO.filled(inputs.settings)
    settings = settings.model_copy(update={"error_feedback": settings.feedback_decay > 0})
    filled = replace(inputs, settings=settings)
    up, down_as = largest_up(filled, settings.d_up), settings.down
    plan = ClientPlan(All(), "zero", All(), up, down_as=down_as, **feedback(filled))
    return one_group(plan, inputs.cohort, mean=mean_of(filled)), state


SPARSE_DILOCO = Method(
    sparse_diloco,
    "Sarfi et al. 2025, arXiv 2508.15706 (SparseLoCo)",
    "The largest of every block sent up, the rest kept with a decay; for pre-training.",
    keys=("d-up", "mean", *KEPT, *BLOCKS, *DOWN_KEYS),
    server={"optimizer": "sgd", "lr": 1.0},
    mean="senders",
    strategy={"feedback_decay": 0.95, "top_k": "block", "rounding": "nearest"},
)
