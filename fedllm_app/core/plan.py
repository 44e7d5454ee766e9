"""What goes down, what is trained, what comes up, what the server may step: a method, as data.

All methods in scope differ in these alone; wire, client, aggregation and loop are written once
over them. A plan is made by the server; the part of it that a device needs travels beside the
payload as a few words of JSON (`ClientPlan.words`), never as code and never as positions twice.

Shapes: P trainable parameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from fedllm_app.core.errors import WireError

RANK_SLICES = "rank-slices"  # the one rule by which a device can hold less than the whole bank

MeanOver = Literal["cohort", "senders"]
Outside = Literal["keep", "zero"]


@dataclass(frozen=True)
class All:
    """Every coordinate."""


@dataclass(frozen=True, eq=False)
class Positions:
    """Explicit coordinates: int64, ascending. On the wire they travel once, in the payload down."""

    idx: np.ndarray


@dataclass(frozen=True)
class Derived:
    """Coordinates that both sides expand from a rule (core/derive.py): no bytes for positions.

    Attributes
    ----------
    rule : a name in `derive.RULES`.
    args : the rule's arguments, JSON values.
    """

    rule: str
    args: Mapping[str, Any] = field(default_factory=dict)


Support = All | Positions | Derived


@dataclass(frozen=True)
class TopK:
    """The `density` fraction of largest magnitude inside `within`, chosen by the device.

    The fraction is of the coordinates in `within` that are not in `always`; at least one is kept.
    Those in `always` are sent whatever their values.
    """

    density: float
    within: Support = field(default_factory=All)
    always: Derived | None = None


@dataclass(frozen=True)
class Work:
    """How much a device trains; 0 leaves it to the run's client settings."""

    epochs: int = 0
    steps: int = 0
    batch: int = 0


@dataclass(frozen=True)
class ClientPlan:
    """What one group of clients receives, trains and returns.

    Attributes
    ----------
    down : what the device receives.
    fill : what the rest of its copy holds: zeros, or the values it was built with.
    train : what local training may move.
    up : what it returns.
    work : how much it trains.
    keeps : state that stays on the device from job to job: "residual", what an upload left out.
        The local optimizer's is kept by `client.keep-optimizer`.
    """

    down: Support = field(default_factory=All)
    fill: Literal["zero", "keep"] = "zero"
    train: Support = field(default_factory=All)
    up: Support | TopK = field(default_factory=All)
    work: Work = field(default_factory=Work)
    keeps: frozenset[str] = frozenset()

    def words(self) -> dict[str, Any]:
        """Return the plan as JSON values.

        Raises
        ------
        ValueError
            If explicit positions to train or send are not the ones that travel down.
        """
        return {
            "down": _support_words(self.down, self.down),
            "fill": self.fill,
            "train": _support_words(self.train, self.down),
            "up": self._up_words(),
            "work": [self.work.epochs, self.work.steps, self.work.batch],
            "keeps": sorted(self.keeps),
        }

    def _up_words(self) -> Any:
        if not isinstance(self.up, TopK):
            return _support_words(self.up, self.down)
        words = {"top": self.up.density, "within": _support_words(self.up.within, self.down)}
        always = self.up.always
        return words | ({"always": _support_words(always, self.down)} if always else {})

    @property
    def rank(self) -> int:
        """The adapters' rank on a device that holds rank slices and nothing else; 0: the bank's."""
        same = self.down == self.train == self.up and self.fill == "zero"
        if same and isinstance(self.down, Derived) and self.down.rule == RANK_SLICES:
            return int(self.down.args["rank"])
        return 0

    @classmethod
    def from_words(cls, words: Mapping[str, Any], sent: np.ndarray | None) -> "ClientPlan":
        """Return the plan a device follows; `sent` are the positions decoded from the payload.

        Raises
        ------
        WireError
            If the words are not a plan, or speak of positions where none came.
        """
        try:
            up, fill = words["up"], words["fill"]
            top = isinstance(up, dict) and "top" in up
            if fill not in ("zero", "keep"):
                raise ValueError(fill)
            return cls(
                down=_support(words["down"], sent),
                fill="keep" if fill == "keep" else "zero",
                train=_support(words["train"], sent),
                up=_top(up, sent) if top else _support(up, sent),
                work=Work(*(int(n) for n in words["work"])),
                keeps=frozenset(words["keeps"]),
            )
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            raise WireError(f"the plan is {words!r}; expected ClientPlan.words()") from error


@dataclass(frozen=True)
class RoundPlan:
    """One round: the plans by group, who is in which, and how the server takes its step.

    Attributes
    ----------
    groups : one plan, and so one encoded payload, per group.
    group_of : group of each client of the cohort.
    mean : divide the sum by all accepted replies, or by those that sent the coordinate.
    step : what the server optimizer may move.
    outside : what happens to the rest: keep it (its momentum too), or set both to zero.
    served : the group whose model is evaluated and exported.
    """

    groups: Mapping[str, ClientPlan]
    group_of: Mapping[str, str]
    mean: MeanOver = "cohort"
    step: Support = field(default_factory=All)
    outside: Outside = "keep"
    served: str = "all"


def _support_words(support: Support, down: Support) -> Any:
    if isinstance(support, All):
        return "all"
    if isinstance(support, Derived):
        return {"rule": support.rule, "args": dict(support.args)}
    if isinstance(down, Positions) and np.array_equal(support.idx, down.idx):
        return "sent"
    raise ValueError("explicit positions travel only in the payload down; use those, or Derived")


def _top(words: Mapping[str, Any], sent: np.ndarray | None) -> TopK:
    always = _support(words["always"], sent) if "always" in words else None
    if always is not None and not isinstance(always, Derived):
        raise ValueError(always)
    return TopK(float(words["top"]), _support(words["within"], sent), always)


def _support(words: Any, sent: np.ndarray | None) -> Support:
    if words == "all":
        return All()
    if words == "sent":
        if sent is None:
            raise WireError("the plan speaks of the positions sent, and the payload has none")
        return Positions(sent)
    return Derived(str(words["rule"]), dict(words["args"]))
