"""Local training: a client's batches through the model, and one optimizer over a flat tensor.

The model's trainable values lie in one flat tensor, so one optimizer steps them all and only they
are swapped from client to client.

Shapes: P trainable parameters, K coordinates that may move.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fedllm_app.client.keep import of_optimizer, restore
from fedllm_app.client.settings import ClientSettings
from fedllm_app.core.job import Job, TrainMetrics
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import Work
from fedllm_app.core.seeds import generator, seed_torch
from fedllm_app.wire.codec import WireSettings

Batch = dict[str, Tensor]


class Trainable(Protocol):
    """What is trained here: a model whose trainable values and gradients are two flat tensors."""

    layout: ParamLayout
    flat: Tensor
    grad: Tensor
    model: nn.Module

    @property
    def fingerprint(self) -> str:
        """Name of the frozen base."""

    def load(self, values: np.ndarray, rank: int = 0) -> None:
        """Hold adapters of this rank (0: the layout's) with these flat values."""

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
    batches : one epoch of a client's examples, in an order drawn from the generator, where the
        model is.
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


def train(
    device: Device,
    job: Job,
    work: Work,
    within: np.ndarray | None,
    kept: Mapping[str, Tensor],
) -> tuple[TrainMetrics, dict[str, Tensor]]:
    """Run local training in place; return its sums, and the optimizer's state if it is kept.

    Parameters
    ----------
    within : positions (K,) that may move, or None for all that the device holds.
    kept : state from an earlier job.
    """
    model, settings = device.model, device.settings
    began = time.monotonic()
    seed_torch(device.seed, "train", job.id, job.client)
    model.model.train()
    model.freeze_outside(within)
    index = None if within is None else torch.from_numpy(within).to(model.flat.device)
    theta = model.flat if index is None else model.flat[index]
    optimizer = local_optimizer(settings, theta)
    if settings.keep_optimizer:
        restore(optimizer, theta, index, kept)
    loss_sum, units, examples, steps = torch.zeros((), device=theta.device), 0, 0, 0
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
    seconds = time.monotonic() - began
    metrics = TrainMetrics(float(loss_sum), units, examples, steps, seconds)
    if not settings.keep_optimizer:
        return metrics, {}
    return metrics, of_optimizer(optimizer, theta, index, kept, model.flat.numel())


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
