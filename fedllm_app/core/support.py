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


Support = All | Positions | Derived | Union | Minus


@dataclass(frozen=True)
class Draw:
    """What derived supports are drawn by. A key that is None is not known at this place.

    Attributes
    ----------
    seed : of the run.
    round : that a plan is made for.
    group, client : whose job it is. A download has a group and no client; the server's step has
        neither.
    """

    seed: int
    round: int = 0
    group: str | None = None
    client: str | None = None


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
