"""One client's job: decode what came, train on own data, return the largest changes.

The lines of Algorithm 1 (Raje 2024) that run on a device, for any plan; local training itself is
one call away in train.py.

Shapes: P trainable parameters, K coordinates that the device holds or sends.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fedllm_app.client.keep import RESIDUAL, fitting, load_kept, save_kept
from fedllm_app.client.train import Device, train
from fedllm_app.core.derive import base_of, chosen_from, expand, held_by
from fedllm_app.core.errors import WireError
from fedllm_app.core.job import Job, Reply, Request
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import ClientPlan, Positions, TopK
from fedllm_app.core.seeds import generator
from fedllm_app.wire.codec import Update, decode, encode
from fedllm_app.wire.select import top_positions
from fedllm_app.wire.slices import origin_of


def answer(device: Device, request: Request) -> list[Reply]:
    """Do every job of a request; one that fails does not touch the others."""
    replies = []
    for job in request.jobs:
        try:
            replies.append(do_job(device, request, job))
        except WireError as error:
            replies.append(Reply(job.id, job.client, error=str(error), reason=error.reason))
        except Exception as error:  # whatever data, model or torch raise, the others go on
            why = f"{type(error).__name__}: {error}"
            replies.append(Reply(job.id, job.client, error=why))
    return replies


def do_job(device: Device, request: Request, job: Job) -> Reply:
    """Train one client from the request's payload and return its encoded update.

    Raises
    ------
    WireError
        If the payload is of another layout or base, or the trained values are not finite.
    """
    model = device.model
    layout, seed = model.layout, device.seed
    if request.layout != layout.hash:
        raise WireError(
            f"layout is {request.layout}; this device has {layout.hash} with {layout.size} "
            "parameters: model, lora and data.labels must be the run's",
            "foreign",
        )
    plan, base, got = received(device, request, job)
    keeps = device.settings.keep_optimizer or plan.keeps
    kept: Mapping[str, Tensor] = load_kept(device.kept, job) if keeps else {}
    # A device of a lower rank holds what came and nothing else.
    start = got.values
    if not plan.rank:
        start = held_by(plan, got.positions, got.values, device.initial)
    model.load(start, plan.rank)
    kept = fitting(kept, start.size, job.client)
    held = None if plan.rank else expand(plan.train, layout, seed, job.id, job.client)
    metrics, state = train(device, job, plan.work, held, kept)
    delta = start - model.flat.cpu().numpy()
    if RESIDUAL in plan.keeps and RESIDUAL in kept:
        delta += kept[RESIDUAL].numpy()
    update, positions = encode_update(device, plan, job, base, delta)
    if RESIDUAL in plan.keeps:
        state[RESIDUAL] = torch.from_numpy(left_out(plan, delta, update, positions, layout, base))
    if state or device.settings.keep_optimizer:
        save_kept(device.kept, job, state)
    return Reply(job.id, job.client, update, metrics)


def received(device: Device, request: Request, job: Job) -> tuple[ClientPlan, str, Update]:
    """Return a request's plan, the name of the base it stands upon, and its decoded payload.

    Raises
    ------
    WireError
        If the payload is malformed, or of another layout or base.
    """
    model, layout = device.model, device.model.layout
    draft = ClientPlan.from_words(request.plan, np.empty(0, np.int64))
    derived = None
    if not isinstance(draft.down, Positions):
        derived = expand(draft.down, layout, device.seed, job.id, request.group)
    base = base_of(draft, model.fingerprint, device.initial, derived)
    got = decode(request.payload, origin_of(layout, base), derived=derived)
    # A mask that keeps every coordinate is written without positions.
    sent = got.positions
    if sent is None and isinstance(draft.down, Positions):
        sent = np.arange(layout.size)
    return ClientPlan.from_words(request.plan, sent), base, got


def encode_update(
    device: Device, plan: ClientPlan, job: Job, base: str, delta: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the part of a delta that the plan sends up, encoded, and its positions.

    Parameters
    ----------
    base : name of what the device held before its first download.
    delta : over all P coordinates, or over those that the device holds.
    """
    layout, up, chosen = device.model.layout, plan.up, isinstance(plan.up, TopK)
    if isinstance(up, TopK):
        within, always = chosen_from(up, layout, device.seed, job.id, job.client)
        positions: np.ndarray | None = top_positions(delta, up.density, within, always)
    else:
        positions = expand(up, layout, device.seed, job.id, job.client)
    whole = positions is None or plan.rank
    update = encode(
        delta if whole else delta[positions],
        positions,
        origin_of(layout, base),
        value_type=device.wire.up_values,
        block=device.wire.block,
        derived=positions is not None and not chosen,
        rng=generator(device.seed, "up", job.id, job.client),
    )
    return update, positions


def left_out(
    plan: ClientPlan,
    delta: np.ndarray,
    update: np.ndarray,
    positions: np.ndarray | None,
    layout: ParamLayout,
    base: str,
) -> np.ndarray:
    """Return what the server does not get of a delta: coordinates not sent, and rounding.

    Source: error feedback, Karimireddy et al. 2019 (arXiv 1901.09847).
    """
    derived = None if isinstance(plan.up, TopK) else positions
    got = decode(update, origin_of(layout, base), derived=derived)
    left = delta.copy()
    left[slice(None) if positions is None or plan.rank else positions] -= got.values
    return left
