"""One client's work in one round, as asked for and as answered, whatever carries it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Reason = Literal["error", "late", "malformed", "foreign", "non-finite"]


@dataclass(frozen=True)
class Job:
    """Ask one client to train once.

    Attributes
    ----------
    id : the round, when synchronous.
    client : the owner of the data.
    clock : local steps that the run has asked of a client before this job (for schedules).
    state_from : id of that client's last job whose reply was accepted, -1 for none; state kept on
        the device starts from there.
    saved : the same as of the server's newest checkpoint: a killed run goes back to it, so the
        device keeps that state too.
    """

    id: int
    client: str
    clock: int = 0
    state_from: int = -1
    saved: int = -1


@dataclass(frozen=True)
class Request:
    """Jobs of one group, which share one plan and one payload.

    Attributes
    ----------
    group : name of the group.
    plan : `ClientPlan.words()`.
    payload : the encoded download, uint8.
    jobs : at least one.
    layout, fingerprint : names of the trainable layout and of the frozen base, hexadecimal.
    """

    group: str
    plan: Mapping[str, Any]
    payload: np.ndarray
    jobs: tuple[Job, ...]
    layout: str
    fingerprint: str


@dataclass(frozen=True)
class TrainMetrics:
    """Sums over one job's local training; a mean is a sum over its denominator.

    Attributes
    ----------
    loss_sum : training loss summed over units (examples or tokens).
    units : how many.
    examples : examples seen, epochs counted each time.
    steps : optimizer steps.
    train_s : seconds of local training.
    """

    loss_sum: float = 0.0
    units: int = 0
    examples: int = 0
    steps: int = 0
    train_s: float = 0.0


@dataclass(frozen=True)
class Reply:
    """One job's answer: an encoded update, or why there is none.

    Attributes
    ----------
    job, client : what it answers.
    update : the encoded upload, uint8, or None.
    error : empty, or what went wrong.
    reason : what a drop is counted as.
    """

    job: int
    client: str
    update: np.ndarray | None = None
    metrics: TrainMetrics = field(default_factory=TrainMetrics)
    error: str = ""
    reason: Reason = "error"
