"""Which coordinates of the flat vector are meant, as a value, and the set that it names.

A support is written into a plan; `expand` turns it into a set of coordinates: all of them, a
`Region` (slices of whole tensors, a few numbers each), or explicit positions. A derived support
costs no bytes: both sides expand it from a rule, and the support itself says what it is drawn by,
so that the same support names the same set wherever it is used.

Shapes: P trainable parameters, K coordinates of a set.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.region import Region, Slice, Where, positions_of, region_of
from fedllm_app.core.seeds import generator

Key = Literal["round", "group", "client"]
Rule = Callable[[ParamLayout, Mapping[str, Any], np.random.Generator], "list[Slice] | np.ndarray"]


@dataclass(frozen=True)
class All:
    """Every coordinate."""


@dataclass(frozen=True, eq=False)
class Positions:
    """Explicit coordinates: int64, ascending. On the wire they travel once, in the payload down."""

    idx: np.ndarray


@dataclass(frozen=True)
class Sent:
    """The coordinates that came down as explicit positions, as a device names them."""


@dataclass(frozen=True)
class Derived:
    """Coordinates that both sides expand from a rule (core/rules.py): no bytes for positions.

    Attributes
    ----------
    rule : a name in `rules.RULES`, or "MODULE:NAME" of a rule of your own.
    args : the rule's arguments, JSON values.
    per : what a random rule is drawn anew for: "round", "group", "client", or several of them. An
        empty tuple draws once for the whole run.
    """

    rule: str
    args: Mapping[str, Any] = field(default_factory=dict)
    per: tuple[Key, ...] = ("round",)


@dataclass(frozen=True)
class Union:
    """What lies in at least one of several supports."""

    parts: "tuple[Support, ...]"


@dataclass(frozen=True)
class Minus:
    """What lies in `whole` and not in `without`."""

    whole: "Support"
    without: "Support"


Support = All | Positions | Sent | Derived | Union | Minus


@dataclass(frozen=True)
class Draw:
    """What derived supports are drawn by. A key that is None is not known at this place.

    Attributes
    ----------
    seed : of the run.
    round : that a plan is made for.
    group, client : whose job it is. A download has a group and no client; the server's step has
        neither.
    sent : positions that came down, on a device.
    """

    seed: int
    round: int = 0
    group: str | None = None
    client: str | None = None
    sent: Where = None


def expand(support: Support, layout: ParamLayout, draw: Draw) -> Where:
    """Return the set that a support names.

    Raises
    ------
    ConfigError
        If the rule is unknown, or drawn by a key that this place does not have: a download is
        shared by a group, so that it cannot be drawn per client.
    """
    if isinstance(support, All):
        return None
    if isinstance(support, Positions):
        return support.idx
    if isinstance(support, Sent):
        return draw.sent
    if isinstance(support, Union):
        return _union([expand(part, layout, draw) for part in support.parts])
    if isinstance(support, Minus):
        return _minus(
            expand(support.whole, layout, draw), expand(support.without, layout, draw), layout.size
        )
    from fedllm_app.core.rules import rule_of

    found = rule_of(support.rule)(layout, support.args, _generator(support, draw))
    if isinstance(found, np.ndarray):
        return np.unique(found).astype(np.int64, copy=False)
    return region_of(layout, found)


def to_json(support: Support, down: Support) -> Any:
    """Return a support as JSON values; explicit positions must be those of the download.

    Raises
    ------
    ValueError
        If they are not.
    """
    if isinstance(support, All):
        return "all"
    if isinstance(support, Derived):
        return {"rule": support.rule, "args": dict(support.args), "per": list(support.per)}
    if isinstance(support, Union):
        return {"union": [to_json(part, down) for part in support.parts]}
    if isinstance(support, Minus):
        return {"whole": to_json(support.whole, down), "without": to_json(support.without, down)}
    if isinstance(support, Sent) and isinstance(down, Positions | Sent):
        return "sent"
    if isinstance(support, Positions) and isinstance(down, Positions):
        if support.idx is down.idx or np.array_equal(support.idx, down.idx):
            return "sent"
    raise ValueError("explicit positions travel only in the payload down; use those, or Derived")


def from_json(words: Any) -> Support:
    """Return the support that a device reads: explicit positions are `Sent`.

    Raises
    ------
    KeyError, TypeError, ValueError
        If the words are not a support's.
    """
    if words == "all":
        return All()
    if words == "sent":
        return Sent()
    if "union" in words:
        return Union(tuple(from_json(part) for part in words["union"]))
    if "whole" in words:
        return Minus(from_json(words["whole"]), from_json(words["without"]))
    keys: tuple[Key, ...] = ("round", "group", "client")
    per = tuple(key for key in keys if key in words["per"])
    if len(per) != len(words["per"]):
        raise ValueError(words["per"])
    return Derived(str(words["rule"]), dict(words["args"]), per)


def _generator(support: Derived, draw: Draw) -> np.random.Generator:
    known = {"round": draw.round, "group": draw.group, "client": draw.client}
    parts: list[int | str] = []
    for key in ("round", "group", "client"):
        if key not in support.per:
            continue
        value = known[key]
        if value is None:
            raise ConfigError(
                f"the support {support.rule!r} is drawn per {key}, and is used where no {key} is "
                "known (a download is shared by a group, the server's step by all); expected "
                "another `per`, or a group for each client"
            )
        parts += [key, value]
    return generator(draw.seed, "derive", support.rule, *parts)


def _union(sets: list[Where]) -> Where:
    if any(found is None for found in sets):
        return None
    regions = [found for found in sets if isinstance(found, Region)]
    starts = [piece.start for region in regions for piece in region.pieces]
    if len(regions) == len(sets) and len(set(starts)) == len(starts):
        pieces = sorted((p for r in regions for p in r.pieces), key=lambda piece: piece.start)
        return Region(tuple(pieces))
    parts = [np.zeros(0, np.int64), *(positions_of(found, 0) for found in sets)]
    return np.unique(np.concatenate(parts))


def _minus(whole: Where, without: Where, P: int) -> Where:
    if isinstance(whole, Region) and isinstance(without, Region):
        gone = {piece.start: piece for piece in without.pieces}
        if all(gone.get(p.start) in (None, p) for p in whole.pieces):
            return Region(tuple(piece for piece in whole.pieces if piece.start not in gone))
    free_P = np.zeros(P, dtype=bool)
    free_P[positions_of(whole, P)] = True
    free_P[positions_of(without, P)] = False
    return np.flatnonzero(free_P)
