"""The server's state of a run as one value: what a checkpoint holds and a resumed run goes on from.

A closed round is a function from state to state. The tensors are those that the optimizer steps in
place, since a second copy of a large model has no room; everything else is replaced.

Shapes: P trainable parameters.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from fedllm_app.core.job import Job, Request

TOO_FEW = "accepted, fewer than round.min-replies"
Pending = tuple[str, int, int]  # client, job, the most bytes that its upload has


@dataclass(frozen=True)
class Spent:
    """What a run has cost beside its bytes.

    Attributes
    ----------
    simulated_s : seconds of all rounds by the clock of `network`, 0 without one.
    units : examples or tokens that accepted replies were trained on.
    flops, compute_s, energy_j : of all simulated devices together, 0 without any.
    seconds, slowest_s : running time over all resumes, the slowest round's; outside the promise of
        equal bits.
    """

    simulated_s: float = 0.0
    units: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    flops: float = 0.0
    compute_s: float = 0.0
    energy_j: float = 0.0


@dataclass(frozen=True, eq=False)
class Open:
    """Jobs of one request that are open when the server has stepped, so that they are played again.

    Attributes
    ----------
    request : as it was sent, with its vectors.
    starts : simulated second in which each of its jobs began.
    """

    request: Request
    starts: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what is not a vector as JSON values."""
        words = {n: v for n, v in vars(self.request).items() if n not in ("vectors", "jobs")}
        jobs = [asdict(job) for job in self.request.jobs]
        return words | {"jobs": jobs, "starts": list(self.starts)}

    @classmethod
    def from_json(cls, words: Mapping[str, Any], vectors: Mapping[str, np.ndarray]) -> "Open":
        """Return it from its words, which are used up, and its vectors."""
        rest = dict(words)
        jobs, starts = tuple(Job(**job) for job in rest.pop("jobs")), rest.pop("starts")
        return cls(Request(**rest, jobs=jobs, vectors=vectors), tuple(map(float, starts)))


@dataclass(frozen=True)
class RunState:
    """All of the server's state but the parameters and the optimizer's tensors.

    Attributes
    ----------
    round : last finished round.
    clock : local steps asked of a client so far, for schedules.
    steps : steps that the server's optimizer took, for its schedule.
    method : the method's arrays.
    downloads : what clients may hold of earlier rounds (core/versions.py).
    accepted : the last job of each client whose reply was accepted.
    saved : the same as of the newest checkpoint; not written, since a checkpoint is the newest.
    earlier : the same as of the checkpoint before it: where the newest is damaged, a run goes on
        from that one.
    progress : examples of its own that each client has used in accepted jobs.
    pending : uploads that may still come after their round.
    totals : the ledger's totals.
    evaluation, evaluated : the latest evaluation, headline first, and the round it is of.
    spent : seconds so far.
    idle, reasons : rounds in a row, up to this one, in which the server took no step, and what
        became of their replies: counts by reason.
    begun_on : digests of what the run trains and evaluates, by name (run/begun.py).
    finished : why the run ended, empty while it has not.
    norms : of each vector, the norms that were accepted in the latest rounds, oldest round first.
    given : jobs that were given so far, where they have ids of their own.
    open : jobs that are open after the round, where a resumed run plays them again.
    dropped : the count of drops by reason, over all rounds.
    """

    round: int = 0
    clock: int = 0
    steps: int = 0
    method: Mapping[str, np.ndarray] = field(default_factory=dict)
    downloads: Mapping[str, np.ndarray] = field(default_factory=dict)
    accepted: Mapping[str, int] = field(default_factory=dict)
    saved: Mapping[str, int] = field(default_factory=dict)
    earlier: Mapping[str, int] = field(default_factory=dict)
    progress: Mapping[str, int] = field(default_factory=dict)
    pending: tuple[Pending, ...] = ()
    totals: Mapping[str, int] = field(default_factory=dict)
    evaluation: Mapping[str, float] = field(default_factory=dict)
    evaluated: int = -1
    spent: Spent = field(default_factory=Spent)
    idle: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    begun_on: Mapping[str, str] = field(default_factory=dict)
    finished: str = ""
    norms: Mapping[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    given: int = 0
    open: tuple[Open, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)

    def resumed(self) -> "RunState":
        """Return the state that a run goes on with; one that had given up may try again."""
        state = replace(self, idle=0, reasons={}) if self.finished else self
        return replace(state, finished="")

    def without_step(self, clock: int, dropped: Mapping[str, int], accepted: int) -> "RunState":
        """Return the state after a round in which the server took no step.

        Parameters
        ----------
        clock : of the state after it.
        dropped : the count of drops by reason.
        accepted : replies that were accepted, too few for a step.
        """
        reasons = Counter(self.reasons) + Counter(dropped) + Counter({TOO_FEW: accepted})
        return replace(
            self, round=self.round + 1, clock=clock, idle=self.idle + 1, reasons=dict(reasons)
        )

    def with_evaluation(self, evaluation: Mapping[str, float]) -> "RunState":
        """Return the state after an evaluation of its round; {} leaves the latest metrics."""
        return replace(self, evaluation=evaluation or self.evaluation, evaluated=self.round)

    def to_json(self) -> dict[str, Any]:
        """Return what is not a tensor as JSON values."""
        apart = ("method", "downloads", "saved", "spent", "open")
        words = {n: v for n, v in vars(self).items() if n not in apart}
        return words | {"spent": asdict(self.spent), "open": [one.to_json() for one in self.open]}

    def open_vectors(self) -> dict[str, np.ndarray]:
        """Return the vectors of the open jobs, once for each request, by its number and name."""
        every = enumerate(one.request.vectors.items() for one in self.open)
        return {f"{i}.{name}": payload for i, vectors in every for name, payload in vectors}

    @classmethod
    def from_json(
        cls,
        words: Mapping[str, Any],
        method: Mapping[str, np.ndarray],
        downloads: Mapping[str, np.ndarray],
        open_vectors: Mapping[str, np.ndarray] | None = None,
    ) -> "RunState":
        """Return the state of a checkpoint.

        Raises
        ------
        KeyError, TypeError, ValueError
            If the words are not a state's.
        """
        pending = tuple((str(c), int(j), int(most)) for c, j, most in words["pending"])
        found = dict(words.get("norms", {}))
        norms = {n: tuple(tuple(map(float, one)) for one in rounds) for n, rounds in found.items()}
        fixed: dict[str, Any] = {"pending": pending, "spent": Spent(**words["spent"])}
        fixed |= {"method": method, "downloads": downloads, "saved": dict(words["accepted"])}
        vectors: dict[str, dict[str, np.ndarray]] = {}
        for name, payload in (open_vectors or {}).items():
            number, _, own = name.partition(".")
            vectors.setdefault(number, {})[own] = payload
        opened = [Open.from_json(w, vectors[str(i)]) for i, w in enumerate(words.get("open", []))]
        fixed["open"] = tuple(opened)
        return cls(**{**words, **fixed, "norms": norms})
