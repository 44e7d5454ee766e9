"""One client's job: decode what came, train on own data, return the largest changes.

The lines of Algorithm 1 (Raje 2024) that run on a device, for any plan; local training itself is
one call away in train.py, and what travels back in upload.py.

Shapes: P trainable parameters, K coordinates that the device holds or sends.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from fedllm_app.client.kept import BASE, OWN, RESIDUAL, VALUES, Kept, load_kept, save_kept
from fedllm_app.client.rules import rule_kind
from fedllm_app.client.train import Device, train
from fedllm_app.client.upload import Upload, decayed
from fedllm_app.core.errors import WireError
from fedllm_app.core.holding import base_of, device_copy
from fedllm_app.core.job import Job, Reply, Request
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import PARAMS, ClientPlan
from fedllm_app.core.region import Where, put, size_of, take
from fedllm_app.core.support import Draw, Sent, expand
from fedllm_app.core.versions import DOWNLOAD, Version
from fedllm_app.wire.codec import Update, decode
from fedllm_app.wire.gridded import decode_gridded
from fedllm_app.wire.slices import Origin, origin_of


@dataclass(frozen=True)
class Received:
    """What a request brought.

    Attributes
    ----------
    origin : whose parameters travel.
    update : the decoded parameters.
    beside : further vectors by name, float32 of shape (P,), zero where nothing came.
    sent : the positions that came, None where they are derived.
    download : what a later download may go on from, to be kept; empty where none does.
    """

    origin: Origin
    update: Update
    beside: Mapping[str, np.ndarray]
    sent: Where
    download: Mapping[str, torch.Tensor]


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
    """Train one client from what a request brought and return its encoded update.

    Raises
    ------
    WireError
        If the payload is of another layout or base, or the trained values are not finite.
    """
    model = device.model
    layout = model.layout
    check_layout(request, layout)
    plan = ClientPlan.from_json(request.plan)
    settings = device.settings
    keeps = settings.keep_optimizer or rule_kind(settings).keeps or plan.keeps
    kept = load_kept(device.kept, job, held_size(device, request, plan)) if keeps else Kept()
    got = received(device, request, plan, kept)
    draw = Draw(device.seed, request.round, request.group, job.client, got.sent)
    start, base = begun(plan, got.update, kept, device.initial)
    model.load(start, plan.rank)
    movable = None if plan.rank else expand(plan.train, layout, draw)
    trained = train(device, job, plan, movable, kept, got.beside)
    delta = base - model.flat.cpu().numpy()
    if RESIDUAL in plan.keeps and kept.residual is not None:
        delta += decayed(kept.residual.numpy(), plan.decay)
    upload = Upload(layout, got.origin, device.wire, draw, job)
    payload, where = upload.params(plan, delta)
    vectors, left = {PARAMS: payload}, None
    if trained.vectors.keys() != plan.beside_up.keys():
        raise WireError(
            f"client.rule sends the vectors {sorted(trained.vectors)}; the plan asks for "
            f"{sorted(plan.beside_up)}"
        )
    for name, vector in plan.beside_up.items():
        vectors[name] = upload.beside(name, vector, trained.vectors[name])
    if RESIDUAL in plan.keeps:
        left = torch.from_numpy(upload.left_out(plan, delta, payload, where))
    if keeps:
        values = {}
        if VALUES in plan.keeps:
            values = {OWN: model.flat.cpu().clone(), BASE: torch.from_numpy(base)}
        state = Kept(trained.optimizer, trained.rule, left, got.download, values)
        save_kept(device.kept, job, state, start.size)
    return Reply(job.id, job.client, vectors, trained.metrics)


def check_layout(request: Request, layout: ParamLayout) -> None:
    """Raise WireError unless a request is of the parameters that this device has."""
    if request.layout != layout.hash:
        raise WireError(
            f"layout is {request.layout}; this device has {layout.hash} with {layout.size} "
            "parameters: model, lora and data.labels must be the run's",
            "foreign",
        )


def received(device: Device, request: Request, plan: ClientPlan, kept: Kept) -> Received:
    """Return a request's decoded vectors.

    Raises
    ------
    WireError
        If a vector is malformed, missing, or of another layout or base, or goes on from a download
        that this device does not hold.
    """
    model, layout = device.model, device.model.layout
    missing = {PARAMS, *plan.beside_down} ^ request.vectors.keys()
    if missing:
        raise WireError(f"the plan and the request differ in the vectors {sorted(missing)}")
    draw = Draw(device.seed, request.round, request.group)
    explicit = isinstance(plan.down, Sent)
    derived = None if explicit else expand(plan.down, layout, draw)
    base = base_of(plan, model.fingerprint, device.initial, derived)
    origin, download = origin_of(layout, base), dict[str, torch.Tensor]()
    if DOWNLOAD in plan.keeps:
        update, download = downloaded(request, layout, base, kept)
    else:
        update = decode(request.vectors[PARAMS], origin, derived=derived)
    if explicit:  # a mask of every coordinate is written without positions
        sent = np.arange(layout.size) if update.positions is None else update.positions
        draw = replace(draw, sent=sent)
    beside = {}
    for name, vector in plan.beside_down.items():
        where = expand(vector.support, layout, draw)
        came = decode(request.vectors[name], origin, derived=where)
        beside[name] = np.zeros(layout.size, np.float32)
        put(beside[name], came.positions, came.values)
    return Received(origin, update, beside, draw.sent, download)


def downloaded(
    request: Request, layout: ParamLayout, base: str, kept: Kept
) -> tuple[Update, dict[str, torch.Tensor]]:
    """Return parameters that may go on from an earlier download, and what to keep of them.

    Raises
    ------
    WireError
        If the device does not hold that download any more ("forgotten"), or as `decode`.
    """
    since = None
    if request.held >= 0:
        if not kept.download:
            raise WireError(
                f"this device no longer holds the download of job {request.held}; the server sends "
                "the next one whole",
                "forgotten",
            )
        since = Version.of({name: tensor.numpy() for name, tensor in kept.download.items()})
        base = since.base(base)
    where, grid = decode_gridded(request.vectors[PARAMS], origin_of(layout, base), since=since)
    arrays = Version(grid.codes, grid.step).arrays()
    download = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Update(where, grid.values()), download


def begun(
    plan: ClientPlan, update: Update, kept: Kept, initial_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the values that training begins with, and those that its change is measured against.

    They are the same, but where a device keeps values of its own and only some came down.

    Raises
    ------
    WireError
        If it should have kept them and did not ("forgotten").
    """
    came = device_copy(plan, update.positions, update.values, initial_P)
    if VALUES not in plan.keeps or update.positions is None:
        return came, came
    if not kept.values:
        raise WireError(
            "this device no longer holds values of its own; the server sends all of them next time",
            "forgotten",
        )
    own, base = (kept.values[name].numpy().copy() for name in (OWN, BASE))
    new, mixing = take(came, update.positions), np.float32(plan.mixing)
    put(base, update.positions, new)
    put(own, update.positions, mixing * take(own, update.positions) + (1 - mixing) * new)
    return own, base


def held_size(device: Device, request: Request, plan: ClientPlan) -> int:
    """Return how many coordinates a device holds under a plan."""
    if not plan.rank:
        return device.model.layout.size
    draw = Draw(device.seed, request.round, request.group)
    return size_of(expand(plan.down, device.model.layout, draw), device.model.layout.size)
