"""A learning rate over the run's clock: warm-up, then constant, linear, cosine, or wsd.

A pure function of the step, so that a killed run needs no state to go on, and a client that was
idle for some rounds trains at the rate of the round that it comes back in.
"""

import math
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from fedllm_app.core.settings import Settings


class ScheduleSettings(Settings):
    """The keys of a schedule, for every namespace that has a learning rate."""

    schedule: Literal["constant", "linear", "cosine", "wsd"] = Field(
        "constant",
        description="Learning rate over time: constant, linear or cosine decay, or wsd (warm-up, "
        "stable, decay).",
    )
    warmup_steps: int = Field(
        0, ge=0, description="Steps over which the learning rate rises from 0 to its full value."
    )
    schedule_steps: int = Field(
        0, ge=0, description="Steps of the whole schedule, warm-up included; constant needs none."
    )
    decay_share: float = Field(
        0.1, gt=0, le=1, description="Share of schedule-steps over which wsd decays, at its end."
    )
    lr_floor: float = Field(
        0.0, ge=0, le=1, description="Share of the learning rate that is left after the decay."
    )


def factor(settings: ScheduleSettings, step: int) -> float:
    """Return what the learning rate is multiplied by at a step, counted from 0.

    Exactly 1.0 for a constant rate after its warm-up.
    """
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    begin, end = settings.warmup_steps, settings.schedule_steps
    if settings.schedule == "wsd":
        begin = max(begin, end - round(settings.decay_share * end))
    done = min(1.0, max(0.0, (step - begin) / max(1, end - begin)))
    left = 0.5 * (1 + math.cos(math.pi * done)) if settings.schedule == "cosine" else 1 - done
    return settings.lr_floor + (1 - settings.lr_floor) * left


def schedule_problems(section: str, settings: ScheduleSettings) -> Iterator[str]:
    """Yield what is wrong between the keys of a schedule."""
    if settings.schedule != "constant" and settings.schedule_steps <= settings.warmup_steps:
        yield (
            f"{section}.schedule-steps is {settings.schedule_steps} with {section}.schedule = "
            f"{settings.schedule!r}; expected more than {section}.warmup-steps = "
            f"{settings.warmup_steps}"
        )
