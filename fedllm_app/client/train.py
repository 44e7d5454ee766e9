"""One client's work: decode what came, train on own data, return the largest changes.

The lines of Algorithm 1 (Raje 2024) that run on a device, for any plan. The model's trainable
values lie in one flat tensor, so one optimizer steps them all and only they are swapped from
client to client.

Shapes: P trainable parameters, K coordinates that may move.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from fedllm_app.client.keep import load_kept, save_kept
from fedllm_app.core.derive import expand
from fedllm_app.core.errors import WireError
from fedllm_app.core.job import Job, Reply, Request, TrainMetrics
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import ClientPlan, Positions, TopK, Work
from fedllm_app.core.seeds import generator, seed_torch
from fedllm_app.core.settings import Settings
from fedllm_app.wire.codec import WireSettings, decode, encode
from fedllm_app.wire.select import top_positions

Batch = dict[str, Tensor]


class ClientSettings(Settings):
    """Namespace `client`: local training."""

    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="Local optimizer.")
    lr: float = Field(0.05, gt=0, description="Local learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd.")
    weight_decay: float = Field(0.0, ge=0, description="Local weight decay.")
    batch: int = Field(16, ge=1, description="Examples in a batch.")
    epochs: int = Field(1, ge=1, description="Passes over the client's data in a round.")
    steps: int = Field(0, ge=0, description="Batches in a round; 0 leaves it to epochs.")
    clip_norm: float = Field(0.0, ge=0, description="Largest norm of a gradient; 0 is no limit.")
    keep_optimizer: bool = Field(
        False, description="Keep the local optimizer's state on the device from round to round."
    )
    threads: int = Field(
        0, ge=0, description="Threads of a training process; automatic is the CPUs it was given."
    )


class Trainable(Protocol):
    """What is trained here: a model whose trainable values and gradients are two flat tensors."""

    layout: ParamLayout
    flat: Tensor
    grad: Tensor
    model: nn.Module

    @property
    def fingerprint(self) -> str:
        """Name of the frozen base."""

    def load(self, values_P: np.ndarray) -> None:
        """Put in flat values."""

    def logits(self, batch: Batch) -> Tensor:
        """Return the model's output for a batch."""

    def freeze_outside(self, positions: np.ndarray | None) -> None:
        """Compute gradients only of tensors with a position among these; None is all."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """Everything a job needs, built once per process.

    Attributes
    ----------
    model : the one backbone with its trainable tensors.
    initial : the flat values the model was built with.
    loss : mean loss of (logits, batch) and the number of units it is over.
    batches : one epoch of a client's examples, in an order drawn from the generator.
    seed : of the run.
    kept : folder of state that stays on the device.
    """

    model: Trainable
    initial: np.ndarray
    loss: Callable[[Tensor, Batch], tuple[Tensor, int]]
    batches: Callable[[str, int, np.random.Generator], Iterator[Batch]]
    settings: ClientSettings
    wire: WireSettings
    seed: int
    kept: Path


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
    draft = ClientPlan.from_words(request.plan, np.empty(0, np.int64))
    derived = None
    if not isinstance(draft.down, Positions):
        derived = expand(draft.down, layout, seed, job.id, request.group)
    got = decode(
        request.payload,
        P=layout.size,
        layout_hash=layout.hash,
        fingerprint=model.fingerprint,
        derived=derived,
    )
    plan = ClientPlan.from_words(request.plan, got.positions)

    start_P = got.values
    if got.positions is not None:
        start_P = device.initial.copy() if plan.fill == "keep" else np.zeros(layout.size, "f4")
        start_P[got.positions] = got.values
    model.load(start_P)
    metrics = train(device, job, plan.work, expand(plan.train, layout, seed, job.id, job.client))
    delta_P = start_P - model.flat.numpy()
    return Reply(job.id, job.client, encode_update(device, plan, job, delta_P), metrics)


def train(device: Device, job: Job, work: Work, within: np.ndarray | None) -> TrainMetrics:
    """Run local training in place.

    Parameters
    ----------
    within : positions (K,) that may move, or None for all of them.
    """
    model, settings = device.model, device.settings
    began = time.monotonic()
    seed_torch(device.seed, "train", job.id, job.client)
    model.model.train()
    model.freeze_outside(within)
    index = None if within is None else torch.from_numpy(within)
    theta = model.flat if index is None else model.flat[index]
    optimizer = local_optimizer(settings, theta)
    keeps = settings.keep_optimizer
    if keeps:
        load_kept(device.kept, job, optimizer, theta)
    loss_sum, units, examples, steps = torch.zeros(()), 0, 0, 0
    for batch in local_batches(device, job, work):
        model.grad.zero_()
        loss, count = device.loss(model.logits(batch), batch)
        torch.autograd.backward(loss)
        gradient = model.grad if index is None else model.grad[index]
        if settings.clip_norm:
            gradient *= torch.clamp(settings.clip_norm / (gradient.norm() + 1e-6), max=1.0)
        theta.grad = gradient
        optimizer.step()
        if index is not None:
            model.flat[index] = theta
        loss_sum += loss.detach().float() * count
        units, steps = units + count, steps + 1
        examples += len(next(iter(batch.values())))
    theta.grad = None
    if keeps:
        save_kept(device.kept, job, optimizer, theta)
    seconds = time.monotonic() - began
    return TrainMetrics(float(loss_sum), units, examples, steps, seconds)


def local_batches(device: Device, job: Job, work: Work) -> Iterator[Batch]:
    """Yield the job's batches: whole epochs, or as many as the steps asked for."""
    settings = device.settings
    batch = work.batch or settings.batch
    steps = work.steps or (0 if work.epochs else settings.steps)
    epochs = work.epochs or settings.epochs
    rng = generator(device.seed, "batches", job.id, job.client)
    done = epoch = 0
    while steps > done if steps else epoch < epochs:
        before = done
        for item in device.batches(job.client, batch, rng):
            yield item
            done += 1
            if done == steps:
                return
        epoch += 1
        if done == before:
            return


def local_optimizer(settings: ClientSettings, theta: Tensor) -> torch.optim.Optimizer:
    """Return a fresh local optimizer over one flat tensor."""
    if settings.optimizer == "adamw":
        return torch.optim.AdamW([theta], lr=settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        [theta],
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )


def encode_update(device: Device, plan: ClientPlan, job: Job, delta_P: np.ndarray) -> np.ndarray:
    """Return the part of a delta that the plan sends up, encoded."""
    layout, up, chosen = device.model.layout, plan.up, False
    if isinstance(up, TopK):
        within = expand(up.within, layout, device.seed, job.id, job.client)
        positions: np.ndarray | None = top_positions(delta_P, up.density, within)
        chosen = True
    else:
        positions = expand(up, layout, device.seed, job.id, job.client)
    return encode(
        delta_P if positions is None else delta_P[positions],
        positions,
        layout.size,
        value_type=device.wire.up_values,
        block=device.wire.block,
        layout_hash=layout.hash,
        fingerprint=device.model.fingerprint,
        derived=positions is not None and not chosen,
        rng=generator(device.seed, "up", job.id, job.client),
    )
