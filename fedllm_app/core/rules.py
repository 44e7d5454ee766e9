"""The rules of derived supports: whole tensors or slices of them, the same on both sides.

A rule returns slices, so that a device saves the compute of what it does not train as well as its
traffic; one of your own may return scattered positions.

Shapes: P trainable parameters, R rank, H attention heads.
"""

import fnmatch
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedllm_app.core.errors import WireError
from fedllm_app.core.extend import load
from fedllm_app.core.heads import block_of
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.lora import ADAPTERS, lora_rank_axis
from fedllm_app.core.region import Slice
from fedllm_app.core.support import Derived, Rule

RANK_SLICES = "rank-slices"  # the one rule by which a device can hold less than the whole bank
RANDOM_TENSORS = "random-tensors"  # whole variables, drawn up to a share of all parameters
HEAD_SLICES = "head-slices"  # units of attention
FRAGMENT = "fragment"  # whole layers that travel together
HEAD = Derived("tensors", {"without": list(ADAPTERS)})  # what is trained beside the adapters


def rule_of(name: str) -> Rule:
    """Return a rule by its name, or one of your own by "MODULE:NAME".

    Raises
    ------
    ConfigError
        If there is none, or a device does not allow its module.
    """
    rule: Rule = load("support rule", name, callable, RULES)
    return rule


def _tensors(layout: ParamLayout, args: Mapping[str, Any], rng: np.random.Generator) -> list[Slice]:
    """Tensors whose names match none of the `without` patterns (FFA-LoRA: without *lora_A*)."""
    without = args.get("without", [])
    return [(n, ()) for n in layout.names if not any(fnmatch.fnmatch(n, w) for w in without)]


def _rank_slices(
    layout: ParamLayout, args: Mapping[str, Any], rng: np.random.Generator
) -> list[Slice]:
    """Return the first `rank` rank slices of every LoRA tensor and the rest whole (HetLoRA)."""
    first = slice(0, int(args["rank"]))
    slices: list[Slice] = []
    for name in layout.names:
        axis = lora_rank_axis(name)
        slices.append((name, () if axis is None else (slice(None),) * axis + (first,)))
    return slices


def _random_tensors(
    layout: ParamLayout, args: Mapping[str, Any], rng: np.random.Generator
) -> list[Slice]:
    """Return tensors in random order up to `share` of all parameters (Ro 2022).

    Those whose names match an `always` pattern are taken first, then the others, at least one.
    """
    patterns = args.get("always", [])
    fixed = [any(fnmatch.fnmatchcase(name, p) for p in patterns) for name in layout.names]
    slices: list[Slice] = [(n, ()) for n, own in zip(layout.names, fixed, strict=True) if own]
    budget = float(args["share"]) * layout.size
    budget -= sum(size for size, own in zip(layout.sizes, fixed, strict=True) if own)
    drawn = False
    for i in rng.permutation(len(layout.names)):
        if not fixed[i] and (not drawn or layout.sizes[i] <= budget):
            slices.append((layout.names[i], ()))
            budget, drawn = budget - layout.sizes[i], True
    return slices


def _head_slices(
    layout: ParamLayout, args: Mapping[str, Any], rng: np.random.Generator
) -> list[Slice]:
    """Return `heads` of `of` units of attention (core/heads.py), the same in every layer.

    The order of the units is drawn; a client's are those from number `first` on, so that clients
    that begin one after another share none as long as there are enough. Tensors outside attention
    are trained whole unless `only` is true (Szablewski 2025).
    """
    of = int(args["of"])
    if not 1 <= of <= layout.size:
        raise WireError(f"a plan has {args['of']} attention heads; expected 1 to {layout.size}")
    number = np.arange(int(args.get("first", 0)), int(args.get("first", 0)) + int(args["heads"]))
    chosen = np.sort(rng.permutation(of)[number[:of] % of]).tolist()
    slices: list[Slice] = []
    for i, name in enumerate(layout.names):
        axis, sizes = _units_of(name, layout.shapes[i], args)
        if not sizes:
            if not args.get("only", False):
                slices.append((name, ()))
            continue
        lead, begin = (slice(None),) * axis, 0
        for size in sizes:
            width = size // of
            slices += [
                (name, (*lead, slice(begin + h * width, begin + (h + 1) * width))) for h in chosen
            ]
            begin += size
    return slices


def _units_of(
    name: str, shape: tuple[int, ...], args: Mapping[str, Any]
) -> tuple[int, tuple[int, ...]]:
    """Return the axis of the units in a tensor, and the sizes of its parts; () where none are."""
    for pattern, axis, sizes in block_of(args):
        if fnmatch.fnmatchcase(name, pattern):
            return axis, sizes
    for key, axis in (("rows", 0), ("columns", 1)):
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in args[key]):
            return axis, (shape[axis],)
    return 0, ()


def _fragment(
    layout: ParamLayout, args: Mapping[str, Any], rng: np.random.Generator
) -> list[Slice]:
    """Return every `of`-th layer, from layer `number` on; what is of no layer goes with the first.

    Source: Streaming DiLoCo (arXiv 2501.18512), strided fragments.
    """
    of, number = int(args["of"]), int(args["number"])
    if of < 1:
        raise WireError(f"a plan has {of} fragments; expected at least 1")
    layers = [(n, re.search(r"\.(\d+)\.", n)) for n in layout.names]
    return [(n, ()) for n, layer in layers if (int(layer[1]) if layer else 0) % of == number % of]


RULES: dict[str, Rule] = {
    "tensors": _tensors,
    RANK_SLICES: _rank_slices,
    RANDOM_TENSORS: _random_tensors,
    HEAD_SLICES: _head_slices,
    FRAGMENT: _fragment,
}
