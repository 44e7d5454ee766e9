"""Local training: a client's batches through the model, and an optimizer over what may move.

The model's trainable values lie in one flat tensor, so that only they are swapped from client to
client. An optimizer steps views of it (moving.py), and a rule may look on (rules/).

Shapes: P trainable parameters, K coordinates that may move.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fedllm_app.client.gradient import Batch, mean_gradient
from fedllm_app.client.kept import Kept
from fedllm_app.client.moving import Moving, restore, state_of
from fedllm_app.client.rules import rule_of
from fedllm_app.client.rules.base import LocalRule
from fedllm_app.client.rules.optimizers import first_state, local_optimizer
from fedllm_app.client.settings import ClientSettings
from fedllm_app.core.job import Job, TrainMetrics
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.lora import with_rank
from fedllm_app.core.plan import ClientPlan, Work
from fedllm_app.core.region import Where
from fedllm_app.core.schedule import factor
from fedllm_app.core.seeds import generator, seed_torch
from fedllm_app.wire.codec import WireSettings


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

    def freeze_outside(self, where: Where) -> None:
        """Compute gradients only of tensors that hold a coordinate of this set."""


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
    stream : a client's examples from a position on, in batches of a size; None where it goes
        through all of them in every round.
    tally : the sums of the loaded values on what a client holds out.
    """

    model: Trainable
    initial: np.ndarray
    loss: Callable[[Tensor, Batch], tuple[Tensor, int]]
    batches: Callable[[str, int, np.random.Generator], Iterator[Batch]]
    settings: ClientSettings
    wire: WireSettings
    seed: int
    kept: Path
    stream: Callable[[str, int, int], Iterator[Batch]] | None = None
    tally: Callable[[str], Mapping[str, Any]] = lambda client: {}


@dataclass(frozen=True)
class Trained:
    """What local training leaves.

    Attributes
    ----------
    metrics : its sums.
    optimizer, rule : state to keep, by name; empty where nothing is kept.
    vectors : what the rule sends beside the parameters, float32 of shape (P,), by name.
    """

    metrics: TrainMetrics
    optimizer: Mapping[str, Tensor]
    rule: Mapping[str, Tensor]
    vectors: Mapping[str, np.ndarray]


def train(
    device: Device,
    job: Job,
    plan: ClientPlan,
    where: Where,
    kept: Kept,
    vectors: Mapping[str, np.ndarray],
) -> Trained:
    """Run local training in place.

    Parameters
    ----------
    plan : how much work, and the rank of what the device holds.
    where : the coordinates that may move.
    kept : state from an earlier job. The optimizer's is stepped in place, to be held once.
    vectors : what came beside the parameters, float32 of shape (P,), by name.
    """
    model, settings = device.model, device.settings
    began = time.monotonic()
    seed_torch(device.seed, "train", job.id, job.client)
    model.model.train()
    model.freeze_outside(where)
    layout = with_rank(model.layout, plan.rank) if plan.rank else model.layout
    moving = Moving(model.flat, model.grad, where, layout, split=not settings.decay_all)
    optimizer = local_optimizer(settings, moving.parts, moving.decays)
    state: Mapping[str, Tensor] = {}
    if settings.keep_optimizer:
        state = kept.optimizer or first_state(settings, model.flat.numel())
        restore(optimizer, moving, state, model.flat.numel())
    rule = rule_of(settings)
    came = _parts(moving, vectors)
    held = rule.lost(came) if kept.lost else _parts(moving, kept.rule)
    rule.begin(moving.parts, came, held)
    if rule.looks_first:
        first_gradient(device, job, plan.work)
        rule.first(moving.gradients())
    metrics, lr = steps(device, job, plan.work, moving, optimizer, rule)
    sent, own = rule.end(moving.parts, metrics.steps, lr)
    for part in moving.parts:
        part.grad = None
    return Trained(
        replace(metrics, train_s=time.monotonic() - began),
        state_of(optimizer, moving, state) if settings.keep_optimizer else {},
        {name: moving.spread(parts, kept.rule.get(name)) for name, parts in own.items()},
        {name: moving.spread(parts).numpy() for name, parts in sent.items()},
    )


def first_gradient(device: Device, job: Job, work: Work) -> None:
    """Leave the mean gradient of all of a client's examples in the model's `grad`."""
    model, settings, total = device.model, device.settings, 0
    model.grad.zero_()
    sum_P = torch.zeros_like(model.grad)
    rng = generator(device.seed, "first", job.id, job.client)
    for batch in device.batches(job.client, work.batch or settings.batch, rng):
        model.grad.zero_()
        _, units = mean_gradient(
            lambda rows: device.loss(model.logits(rows), rows),
            batch,
            model.grad,
            settings.micro_batch,
            settings.autocast,
        )
        if units:  # the mean over nothing is no number
            sum_P.add_(model.grad, alpha=units)
            total += units
    model.grad.copy_(sum_P.div_(max(total, 1)))


def steps(
    device: Device,
    job: Job,
    work: Work,
    moving: Moving,
    optimizer: torch.optim.Optimizer,
    rule: LocalRule,
) -> tuple[TrainMetrics, float]:
    """Take the local steps; return their sums and the learning rate of the last."""
    model, settings, lr = device.model, device.settings, device.settings.lr
    loss_sum, units, examples, done = torch.zeros((), device=model.flat.device), 0, 0, 0

    def loss_of(rows: Batch) -> tuple[Tensor, int]:
        return device.loss(model.logits(rows), rows)

    for batch in local_batches(device, job, work):
        model.grad.zero_()
        loss, count = mean_gradient(
            loss_of, batch, model.grad, settings.micro_batch, settings.autocast
        )
        gradients = moving.gradients()
        if settings.clip_norm:
            scale = torch.clamp(settings.clip_norm / (moving.norm(gradients) + 1e-6), max=1.0)
            for gradient in gradients:
                gradient *= scale
        rule.gradient(gradients, moving.parts)
        for part, gradient in zip(moving.parts, gradients, strict=True):
            part.grad = gradient
        lr = settings.lr * factor(settings, job.clock + done)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        moving.write_back()
        loss_sum += loss * count
        units, done = units + count, done + 1
        examples += len(next(iter(batch.values())))
    return TrainMetrics(float(loss_sum), units, examples, done), lr


def _parts(moving: Moving, vectors: Mapping[str, np.ndarray | Tensor]) -> dict[str, list[Tensor]]:
    """Return the moving parts of vectors of shape (P,)."""
    device = moving.parts[0].device if moving.parts else "cpu"
    return {n: moving.select(torch.as_tensor(v).to(device)) for n, v in vectors.items()}


def local_batches(device: Device, job: Job, work: Work) -> Iterator[Batch]:
    """Yield the job's batches: whole epochs, as many as the steps asked for, or of a stream."""
    settings = device.settings
    batch = work.batch or settings.batch
    if device.stream is not None:
        whole = device.stream(job.client, job.position, batch)
        yield from islice(whole, work.steps or settings.steps)
        return
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
