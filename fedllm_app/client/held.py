"""What a job holds in memory: a step's tensors, the local optimizer's, and copies beside them.

A job has two moments that count. In a step there are weights, gradients, optimizer and activations;
when the update is sent, activations and optimizer are gone, and the change and its payload are
there. The copies are there in both: the values that the model was built with, what came down, and
where that is not all, the values that training begins with.

Shapes: P trainable parameters, K coordinates that may move, D coordinates that came down.
"""

from dataclasses import dataclass

import numpy as np

from fedllm_app.client.rules import rule_kind
from fedllm_app.client.rules.base import LocalRule
from fedllm_app.client.rules.optimizers import MOMENTS
from fedllm_app.client.settings import ClientSettings
from fedllm_app.core.plan import ClientPlan, TopK
from fedllm_app.core.region import Where, size_of
from fedllm_app.models.memory import StepMemory

VALUE, POSITION = 4, 8  # bytes of a float32 and of an int64


@dataclass(frozen=True)
class JobMemory:
    """Bytes that a job holds; what the program itself takes comes on top.

    Attributes
    ----------
    step : of a pass forward and backward.
    optimizer : its state.
    copies : of trainable values, beside the model's own.
    sending : of the change, what is chosen of it, and the payload; when the step is over.
    """

    step: StepMemory
    optimizer: int
    copies: int
    sending: int

    @property
    def total(self) -> int:
        """The most at once."""
        held = self.step.weights + self.step.gradients + self.copies
        return held + max(self.optimizer + self.step.activations, self.sending)

    def parts(self) -> dict[str, int]:
        """Return the bytes by name, in the order in which they are told."""
        return {
            "weights": self.step.weights,
            "gradients": self.step.gradients,
            "optimizer": self.optimizer,
            "activations": self.step.activations,
            "copies": self.copies,
            "sending": self.sending,
        }


def job_memory(
    step: StepMemory, settings: ClientSettings, plan: ClientPlan, P: int, down: Where, moving: Where
) -> JobMemory:
    """Return what a job of a plan holds.

    Parameters
    ----------
    step : of the model at the plan's rank.
    P : of the model as it was built; at the plan's rank there may be fewer.
    down, moving : the coordinates that come and those that may move; None is all.
    """
    held = step.trained
    D, K = (held if where is None or plan.rank else size_of(where, P) for where in (down, moving))
    moments = len(MOMENTS.get(settings.optimizer, ())) or int(settings.momentum > 0)
    optimizer = VALUE * K * moments
    if isinstance(moving, np.ndarray) and not plan.rank:  # gathered: positions, values, gradients
        optimizer += K * (2 * POSITION + 2 * VALUE)
    copies = VALUE * (P + D)
    if isinstance(down, np.ndarray):
        copies += POSITION * D
    if D < held or plan.down_as == "change":
        copies += VALUE * held
    kind = rule_kind(settings)
    vectors = {"residual": 1, "values": 2, "download": 1}
    kept = sum(vectors.get(name, 1) for name in plan.keeps) + kind.keeps
    beside = len(plan.beside_down) + len(plan.beside_up)
    copies += VALUE * held * (kept + beside) + VALUE * K * (kind is not LocalRule)
    sending = 2 * VALUE * held  # the change, and a payload of all of it
    if isinstance(plan.up, TopK):
        sending += 2 * VALUE * held  # magnitudes, and what is left of them to look through
    if settings.keep_optimizer:
        # Where some coordinates move, each has its own count of steps.
        sending += VALUE * held * (moments + (settings.optimizer in MOMENTS and moving is not None))
    return JobMemory(step, optimizer, copies, sending)
