"""Supports that cost no bytes: both sides expand them from a rule and (seed, job, client).

A rule returns whole tensors or slices of them, never scattered coordinates, so that a device can
save the compute of what it does not train as well as its traffic.

Shapes: P trainable parameters, K expanded coordinates, R rank, H attention heads.
"""

import fnmatch
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedllm_app.core.errors import ConfigError, WireError
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import RANK_SLICES, All, ClientPlan, Derived, Positions, Support, TopK
from fedllm_app.core.seeds import generator

Slice = tuple[str, tuple[slice, ...]]
Rule = Callable[[ParamLayout, Mapping[str, Any], np.random.Generator], list[Slice]]
ADAPTERS = ("*.lora_A.*", "*.lora_B.*", "*lora_embedding_A*", "*lora_embedding_B*")
HEAD = Derived("tensors", {"without": list(ADAPTERS)})  # what is trained beside the adapters


def expand(
    support: Support, layout: ParamLayout, seed: int, job: int, client: str
) -> np.ndarray | None:
    """Return the coordinates of a support, or None where it is all of them.

    Returns
    -------
    int64 array of shape (K,), ascending, or None.

    Raises
    ------
    ConfigError
        If the rule is unknown.
    """
    if isinstance(support, All):
        return None
    if isinstance(support, Positions):
        return support.idx
    if support.rule not in RULES:
        raise ConfigError(f"support rule is {support.rule!r}; expected one of {sorted(RULES)}")
    rng = generator(seed, "derive", support.rule, job, client)
    pieces = []
    for name, slices in RULES[support.rule](layout, support.args, rng):
        start = layout.span(name).start
        shape = layout.shapes[layout.names.index(name)]
        grid = np.arange(start, start + int(np.prod(shape)), dtype=np.int64).reshape(shape)
        pieces.append(grid[slices].reshape(-1))
    return np.sort(np.concatenate(pieces)) if pieces else np.empty(0, np.int64)


def chosen_from(
    up: TopK, layout: ParamLayout, seed: int, job: int, client: str
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return what a device chooses its upload from (None: all P), and what it sends in any case."""
    always = expand(up.always, layout, seed, job, client) if up.always else None
    return expand(up.within, layout, seed, job, client), always


def lora_rank_axis(name: str) -> int | None:
    """Return which axis of a LoRA tensor counts its R ranks, or None for any other tensor.

    A is (R, inputs), B is (outputs, R), for embeddings too.
    """
    if ".lora_A." in name or ".lora_embedding_A" in name:
        return 0
    return 1 if ".lora_B." in name or ".lora_embedding_B" in name else None


def with_rank(layout: ParamLayout, rank: int) -> ParamLayout:
    """Return the layout with adapters of another rank; the rest stays."""
    shapes = []
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        axis = lora_rank_axis(name)
        shapes.append(shape if axis is None else (*shape[:axis], rank, *shape[axis + 1 :]))
    return ParamLayout(layout.names, tuple(shapes))


def lora_rank(layout: ParamLayout) -> int:
    """Return the rank of the adapters, 0 where there are none."""
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        axis = lora_rank_axis(name)
        if axis is not None:
            return shape[axis]
    return 0


def held_by(
    plan: ClientPlan, positions: np.ndarray | None, values: np.ndarray, initial_P: np.ndarray
) -> np.ndarray:
    """Return what a device holds of P coordinates once a download has come.

    Parameters
    ----------
    positions : of the values that came, None for all.
    values : float32, one for each.
    initial_P : values the model was built with.
    """
    if positions is None:
        return values
    held_P = initial_P.copy() if plan.fill == "keep" else np.zeros_like(initial_P)
    held_P[positions] = values
    return held_P


def base_of(
    plan: ClientPlan, fingerprint: str, initial_P: np.ndarray, down: np.ndarray | None
) -> str:
    """Return the name of everything that a device must hold alike before its first download.

    That is the frozen base, and where a plan keeps what it never sends (a frozen A drawn from the
    seed), these values as well. Where positions travel with the values, what is kept differs from
    round to round, and a device learns it only from the payload: then it is the base alone.

    Parameters
    ----------
    fingerprint : of the frozen base, 32 hexadecimal digits.
    initial_P : values the model was built with.
    down : positions that are sent, None for all.
    """
    if plan.fill != "keep" or down is None or isinstance(plan.down, Positions):
        return fingerprint
    kept_P = initial_P.copy()
    kept_P[down] = 0
    digest = hashlib.blake2b(bytes.fromhex(fingerprint), digest_size=16)
    digest.update(kept_P.data)
    return digest.hexdigest()


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
    """Return tensors in random order up to `share` of all parameters, at least one (Ro 2022)."""
    budget, slices = float(args["share"]) * layout.size, list[Slice]()
    for i in rng.permutation(len(layout.names)):
        if not slices or layout.sizes[i] <= budget:
            slices.append((layout.names[i], ()))
            budget -= layout.sizes[i]
    return slices


def _head_slices(
    layout: ParamLayout, args: Mapping[str, Any], rng: np.random.Generator
) -> list[Slice]:
    """Return `heads` of `of` attention heads, drawn per client: rows of q, k, v, columns of o.

    Tensors outside attention are trained whole unless `only` is true (Szablewski 2025).
    """
    if not 1 <= int(args["of"]) <= layout.size:
        raise WireError(f"a plan has {args['of']} attention heads; expected 1 to {layout.size}")
    chosen = np.sort(rng.permutation(int(args["of"]))[: int(args["heads"])])
    slices: list[Slice] = []
    for i, name in enumerate(layout.names):
        row = any(fnmatch.fnmatch(name, p) for p in args["rows"])
        column = any(fnmatch.fnmatch(name, p) for p in args["columns"])
        if not (row or column):
            if not args.get("only", False):
                slices.append((name, ()))
            continue
        axis = 0 if row else 1
        width = layout.shapes[i][axis] // int(args["of"])
        lead = (slice(None),) * axis
        slices += [(name, (*lead, slice(h * width, (h + 1) * width))) for h in chosen.tolist()]
    return slices


RULES: dict[str, Rule] = {
    "tensors": _tensors,
    RANK_SLICES: _rank_slices,
    "random-tensors": _random_tensors,
    "head-slices": _head_slices,
}
