"""What goes down, what is trained, what comes up, what the server may step: a method, as data.

All methods in scope differ in these alone; wire, client, aggregation and loop are written once
over them. A plan is made by the server; the part of it that a device needs travels beside the
payload as JSON (`ClientPlan.to_json`), never as code and never as positions twice.

Shapes: P trainable parameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from fedllm_app.core.errors import WireError
from fedllm_app.core.rules import RANK_SLICES
from fedllm_app.core.support import All, Derived, Support, from_json, to_json

MeanOver = Literal["cohort", "senders"]
Outside = Literal["leave", "zero", "start"]
As = Literal["values", "change"]
Rounding = Literal["random", "nearest"]
MOST_SIDE = 4096  # of a block of a matrix; a list of one axis has its square
PARAMS = "params"  # the name of the vector that every message carries


@dataclass(frozen=True)
class TopK:
    """The `density` fraction of largest magnitude inside `within`, chosen by the device.

    The fraction is of the coordinates in `within` that are not in `always`; at least one is kept.
    Those in `always` are sent whatever their values.

    Attributes
    ----------
    side : of the square blocks of a matrix, each of which keeps that fraction of its own; 0 has one
        threshold for all. See `wire/tiles.py`.
    """

    density: float
    within: Support = field(default_factory=All)
    always: Derived | None = None
    side: int = 0


@dataclass(frozen=True)
class Work:
    """How much a device trains; 0 leaves it to the run's client settings.

    No method of ours sets it: `devices.balance` and the tiers of `devices` do, for devices of
    unequal speed.
    """

    epochs: int = 0
    steps: int = 0
    batch: int = 0


@dataclass(frozen=True)
class Beside:
    """A vector that travels beside the parameters: a control variate, a moment, a buffer.

    Attributes
    ----------
    support : which of its P coordinates travel.
    value_type : as in `wire.up-values`; "" is the run's own of the direction.
    """

    support: Support = field(default_factory=All)
    value_type: str = ""


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
    keeps : state that stays on the device from job to job: "residual", what an upload left out;
        "download", what came down, where a later one may go on from it; "values", its own of
        all coordinates, of which a later download replaces some, and what it is measured against.
        The local optimizer's is kept by `client.keep-optimizer`.
    beside_down, beside_up : further vectors by name, each with its own support and value type. The
        server's values are in `RoundPlan.vectors`; a device's come from its local rule.
    down_as : the values themselves, or their change from those that the model was built with. A
        change leaves the rest as it was built.
    decay : what a kept residual is multiplied by before an update is added to it.
    mixing : share of its own values that a device keeps where others come down.
    rounding : of the few levels of an upload: at random, so that means over clients are right, or
        to the nearest level, where what rounding leaves out is kept.
    """

    down: Support = field(default_factory=All)
    fill: Literal["zero", "initial"] = "zero"
    train: Support = field(default_factory=All)
    up: Support | TopK = field(default_factory=All)
    work: Work = field(default_factory=Work)
    keeps: frozenset[str] = frozenset()
    beside_down: Mapping[str, Beside] = field(default_factory=dict)
    beside_up: Mapping[str, Beside] = field(default_factory=dict)
    down_as: As = "values"
    decay: float = 1.0
    rounding: Rounding = "random"
    mixing: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values.

        Raises
        ------
        ValueError
            If explicit positions to train or send are not the ones that travel down.
        """
        return {
            "down": to_json(self.down, self.down),
            "down-as": self.down_as,
            "fill": self.fill,
            "train": to_json(self.train, self.down),
            "up": self._up_json(),
            "work": [self.work.epochs, self.work.steps, self.work.batch],
            "keeps": sorted(self.keeps),
            "beside-down": self._beside_json(self.beside_down),
            "beside-up": self._beside_json(self.beside_up),
            "decay": self.decay,
            "rounding": self.rounding,
            "mixing": self.mixing,
        }

    def _up_json(self) -> Any:
        if not isinstance(self.up, TopK):
            return to_json(self.up, self.down)
        words = {"top": self.up.density, "within": to_json(self.up.within, self.down)}
        words |= {"side": self.up.side} if self.up.side else {}
        always = self.up.always
        return words | ({"always": to_json(always, self.down)} if always else {})

    def _beside_json(self, vectors: Mapping[str, Beside]) -> dict[str, Any]:
        return {n: [to_json(v.support, self.down), v.value_type] for n, v in vectors.items()}

    @property
    def rank(self) -> int:
        """The adapters' rank on a device that holds rank slices and nothing else; 0: the bank's."""
        same = self.down == self.train == self.up and self.fill == "zero"
        same = same and not self.beside_down and not self.beside_up  # which are of all P
        if same and isinstance(self.down, Derived) and self.down.rule == RANK_SLICES:
            return int(self.down.args["rank"])
        return 0

    @classmethod
    def from_json(cls, words: Mapping[str, Any]) -> "ClientPlan":
        """Return the plan that a device follows; positions that travel are `Sent`.

        Raises
        ------
        WireError
            If the words are not a plan, or speak of positions where none come.
        """
        try:
            up, fill, down_as = words["up"], words["fill"], words["down-as"]
            rounding, decay = words["rounding"], float(words["decay"])
            mixing = float(words["mixing"])
            if fill not in ("zero", "initial") or down_as not in ("values", "change"):
                raise ValueError(fill, down_as)
            if (
                rounding not in ("random", "nearest")
                or not 0 <= min(decay, mixing) <= max(decay, mixing) <= 1
            ):
                raise ValueError(rounding, decay, mixing)
            plan = cls(
                down=from_json(words["down"]),
                down_as=down_as,
                fill=fill,
                train=from_json(words["train"]),
                up=_top(up) if isinstance(up, dict) and "top" in up else from_json(up),
                work=Work(*(int(n) for n in words["work"])),
                keeps=frozenset(words["keeps"]),
                beside_down=_beside(words["beside-down"]),
                beside_up=_beside(words["beside-up"]),
                decay=decay,
                rounding=rounding,
                mixing=mixing,
            )
            plan.to_json()  # what is "sent" must have come
            return plan
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise WireError(f"the plan is {words!r}; expected ClientPlan.to_json()") from error


@dataclass(frozen=True)
class RoundPlan:
    """One round: the plans by group, who is in which, and how the server takes its step.

    Attributes
    ----------
    groups : one plan, and so one encoded payload, per group.
    group_of : group of each client of the cohort.
    mean : divide the sum by all accepted replies, or by those that sent the coordinate.
    step : what the server optimizer may move.
    outside : what happens to the rest: leave it as it is (its momentum too), or set it to zero, or
        to the values that the model was built with, and its momentum to zero.
    served : the group whose model is evaluated and exported.
    vectors : the server's values of the vectors that go down beside the parameters, float32 (P,).
    mirrored : those that come back as changes of what the devices keep, so that the server's mean
        follows theirs: a change counts in full or, with all of its reply, not at all.
    """

    groups: Mapping[str, ClientPlan]
    group_of: Mapping[str, str]
    mean: MeanOver = "cohort"
    step: Support = field(default_factory=All)
    outside: Outside = "leave"
    served: str = "all"
    vectors: Mapping[str, np.ndarray] = field(default_factory=dict)
    mirrored: tuple[str, ...] = ()


def _top(words: Mapping[str, Any]) -> TopK:
    always = from_json(words["always"]) if "always" in words else None
    if always is not None and not isinstance(always, Derived):
        raise ValueError(always)
    side = words.get("side", 0)
    if not isinstance(side, int) or not 0 <= side <= MOST_SIDE:
        raise ValueError(side)
    return TopK(float(words["top"]), from_json(words["within"]), always, side)


def _beside(words: Mapping[str, Any]) -> dict[str, Beside]:
    return {str(n): Beside(from_json(s), str(value_type)) for n, (s, value_type) in words.items()}
