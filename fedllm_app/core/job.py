"""One client's work in one round, as asked for and as answered, whatever carries it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Profile = Mapping[str, float | str]  # what is known of a device, such as {"class": "phone"}
Reason = Literal["error", "late", "stale", "malformed", "foreign", "non-finite", "forgotten"]


@dataclass(frozen=True)
class Job:
    """Ask one client to train once.

    Attributes
    ----------
    id : the round; where a free device is given a job within a round, the number of the job in
        the run. No client has two jobs of one id, and a later job has a larger one.
    client : the owner of the data.
    clock : local steps that the run has asked of a client before this job (for schedules).
    state_from : id of that client's last job whose reply was accepted, -1 for none; state kept on
        the device starts from there.
    saved, earlier : the same as of the server's newest checkpoint and of the one before it: a
        killed run goes back to the newest, or where that is damaged to the earlier one, so the
        device keeps these states too.
    position : examples of its own that the client has used in jobs that were accepted: where it
        stands in its stream.
    """

    id: int
    client: str
    clock: int = 0
    state_from: int = -1
    saved: int = -1
    earlier: int = -1
    position: int = 0


@dataclass(frozen=True)
class Request:
    """Jobs of one group, which share one plan and the same vectors.

    Attributes
    ----------
    group : name of the group.
    plan : `ClientPlan.to_json()`.
    vectors : the encoded downloads by name, uint8; "params" is always among them.
    jobs : at least one.
    layout, fingerprint : names of the trainable layout and of the frozen base, hexadecimal.
    round : that the plan was made for.
    held : the job whose download the parameters go on from, -1 where they need none.
    """

    group: str
    plan: Mapping[str, Any]
    vectors: Mapping[str, np.ndarray]
    jobs: tuple[Job, ...]
    layout: str
    fingerprint: str
    round: int = 0
    held: int = -1


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
    costs : what else the job took, by name with its unit, as a real device may measure it. Empty
        today: what simulated devices take is reckoned on the server (devices/meter.py).
    """

    loss_sum: float = 0.0
    units: int = 0
    examples: int = 0
    steps: int = 0
    train_s: float = 0.0
    costs: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """One job's answer: encoded vectors, or why there are none.

    Attributes
    ----------
    job, client : what it answers.
    vectors : the encoded uploads by name, uint8; "params" is the update. Empty where it failed.
    error : empty, or what went wrong.
    reason : what a drop is counted as.
    """

    job: int
    client: str
    vectors: Mapping[str, np.ndarray] = field(default_factory=dict)
    metrics: TrainMetrics = field(default_factory=TrainMetrics)
    error: str = ""
    reason: Reason = "error"


@dataclass(frozen=True)
class Measurement:
    """What the model is worth on what one client holds out: sums with their denominators, no more.

    Attributes
    ----------
    client : whose examples they are.
    sums : of the task's tally by name, int, float or list of int; empty where it failed.
    error : empty, or what went wrong.
    reason : what a drop is counted as.
    """

    client: str
    sums: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    reason: Reason = "error"
