"""Toys that follow the real contracts: a model whose gradients are given, a transport by script.

A toy device trains with the real client code and a toy loop is the real loop; only the backbone,
the data and the network are replaced, so that every number can be worked out by hand.

Shapes: P trainable parameters.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fedllm_app.client.answer import answer
from fedllm_app.client.settings import ClientSettings
from fedllm_app.client.train import Device
from fedllm_app.core.effort import Effort
from fedllm_app.core.heads import Heads
from fedllm_app.core.job import Reply, Request
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import Work
from fedllm_app.core.region import positions_of
from fedllm_app.core.state import RunState
from fedllm_app.core.support import Derived, Draw, expand
from fedllm_app.devices.network import Network
from fedllm_app.run.checkpoint import newest_whole, set_aside
from fedllm_app.run.record import Recorder
from fedllm_app.run.settings import RoundSettings, RunSettings
from fedllm_app.server.counting import Counting
from fedllm_app.server.guard import Guard
from fedllm_app.server.limits import Limits
from fedllm_app.server.loop import Loop
from fedllm_app.server.measuring import Here
from fedllm_app.server.methods import STRATEGIES
from fedllm_app.server.methods.base import Method
from fedllm_app.server.methods.settings import StrategySettings
from fedllm_app.server.optimizer import ServerOptimizer
from fedllm_app.server.pacing import pacing_of
from fedllm_app.server.planning import Planner
from fedllm_app.server.settings import ServerSettings
from fedllm_app.wire.codec import WireSettings

BASE = "ab" * 16
OTHER = "cd" * 16
# Rank 0 of q's adapter is 0-2, 6 and 8; rank 1 is 3-5, 7 and 9. The head is 10 and 11. Attention
# head 0 is 12, 13, 16 and 17; head 1 is 14, 15, 18 and 19.
LAYOUT = ParamLayout(
    (
        "q.lora_A.weight",
        "q.lora_B.weight",
        "head.weight",
        "attention.q.weight",
        "attention.o.weight",
    ),
    ((2, 3), (2, 2), (2,), (4, 1), (1, 4)),
)
HEADS = Heads(2, ("attention.q.*",), ("attention.o.*",))
P = LAYOUT.size
# Strictly growing, so that the largest quarter is the last five; whole numbers, so sums are exact.
PARAMS = np.arange(1, P + 1, dtype=np.float32)


class ToyModel:
    """Train on slope . values + bend / 2 * |values|^2: the gradient is slope + bend * values."""

    def __init__(self, layout: ParamLayout = LAYOUT, bend: float = 0.0) -> None:
        self.layout, self.fingerprint, self.bend = layout, BASE, bend
        self.flat, self.grad = torch.zeros(layout.size), torch.zeros(layout.size)
        self._weights = nn.Parameter(self.flat)
        self._weights.grad = self.grad
        self.model = nn.Identity()
        self.copies: list[np.ndarray] = []

    def load(self, values: np.ndarray, rank: int = 0) -> None:
        slices = expand(Derived("rank-slices", {"rank": rank or 2}), self.layout, Draw(0))
        self.held = positions_of(slices, self.layout.size)
        self.flat, self.grad = torch.tensor(values), torch.zeros(len(values))
        self._weights = nn.Parameter(self.flat)
        self._weights.grad = self.grad
        self.copies.append(self.whole())

    def whole(self) -> np.ndarray:
        """Return what the model holds, with zeros where it holds nothing."""
        values_P = np.zeros(self.layout.size, np.float32)
        values_P[self.held] = self.flat.numpy()
        return values_P

    def logits(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        weights = self._weights
        return batch["slope"][..., self.held] * weights + self.bend / 2 * weights * weights

    def freeze_outside(self, positions: np.ndarray | None) -> None:
        pass


def toy_device(
    slopes: Mapping[str, np.ndarray], kept: Path, *, bend: float = 0.0, seed: int = 0,
    wire: WireSettings | None = None, **client: Any,
) -> Device:  # fmt: skip
    """Return a device that plays every client of `slopes`; a step moves one by lr * slope."""
    model = ToyModel(bend=bend)
    return Device(
        model=model,
        initial=-PARAMS,
        loss=lambda logits, batch: (logits.sum(), 1),
        batches=lambda client, batch, rng: iter(
            [{"slope": torch.from_numpy(np.asarray(slopes[client], np.float32))}]
        ),
        settings=ClientSettings(**({"lr": 1.0, "momentum": 0.0} | client)),
        wire=wire or WireSettings(),
        seed=seed,
        kept=kept,
    )


Edit = Callable[[Reply], Sequence[Reply]]


@dataclass
class Scripted:
    """A transport in memory: a toy device answers, and a script may spoil the answers.

    Attributes
    ----------
    device : does the jobs.
    counts : examples by client.
    edits : by client, what becomes of its reply.
    order : in which the replies of a round come.
    die_in : round in which the server is killed, after the first reply was polled.
    slow_s : seconds that every poll takes.
    """

    device: Device
    counts: Mapping[str, int]
    edits: Mapping[str, Edit] = field(default_factory=dict)
    order: Callable[[list[Reply]], list[Reply]] = list
    die_in: int = 0
    slow_s: float = 0.0
    submitted: list[list[Request]] = field(default_factory=list)
    _coming: list[Reply] = field(default_factory=list)
    _polls: int = 0

    def clients(self) -> Mapping[str, int]:
        return self.counts

    def busy(self) -> Sequence[str]:
        return ()

    def profiles(self) -> Mapping[str, Any]:
        return {}

    def submit(self, requests: Sequence[Request], timeout_s: float) -> None:
        self.submitted.append(list(requests))
        replies = [r for request in requests for r in answer(self.device, request)]
        # Wall-clock is outside what a test can know.
        replies = [replace(r, metrics=replace(r.metrics, train_s=0.0)) for r in replies]
        edited = [e for r in replies for e in self.edits.get(r.client, lambda r: [r])(r)]
        self._coming, self._polls = self.order(edited), 0

    def poll(self) -> list[Reply]:
        time.sleep(self.slow_s or (0 if self._coming else 0.005))
        self._polls += 1
        if self.die_in and self._polls == 2 and self.submitted[-1][0].jobs[0].id == self.die_in:
            raise KeyboardInterrupt
        return [self._coming.pop(0)] if self._coming else []


def toy_scores(values_P: np.ndarray) -> dict[str, float]:
    """Return metrics that every coordinate enters: accuracy falls as the values grow."""
    size = float(np.abs(values_P).sum())
    return {"accuracy": 1 / (1 + size), "loss": size}


def toy_loop(
    folder: Path,
    transport: Any,
    *,
    method: Method | str = "dense",
    server: Mapping[str, Any] | None = None,
    strategy: Mapping[str, Any] | None = None,
    wire: WireSettings | None = None,
    params: np.ndarray = PARAMS,
    evaluate: Callable[[np.ndarray], dict[str, float]] | None = toy_scores,
    rounds: int = 1,
    seed: int = 0,
    checkpoint_every: int = 5,
    base_client_bytes: int = 0,
    network: Network | None = None,
    pacing: Any = "sync",
    most_steps: Callable[[int], int] = lambda examples: 1 << 48,
    steps_before: Callable[[int], int] = lambda examples: 0,
    **round_: Any,
) -> Loop:
    """Return the real loop over the toy layout; a folder with a checkpoint is continued."""
    settings = ServerSettings(**({"optimizer": "sgd"} | dict(server or {}))).resolved()
    optimizer = ServerOptimizer(settings, params)
    restored, state = newest_whole(folder / "checkpoints"), None
    if restored is not None:
        set_aside(restored)
        state = restored.state.resumed()
        optimizer.restore(restored.tensors)

    def effort(work: Work, examples: int) -> Effort:
        steps = work.steps or most_steps(examples)
        return Effort(steps, *2 * (steps + steps_before(examples),))

    run = RunSettings(rounds=rounds, seed=seed, checkpoint_every=checkpoint_every)
    named = {"pacing": pacing} if isinstance(pacing, str) else {}
    asked = RoundSettings(**({"timeout_s": 20.0} | named | round_))
    return Loop(
        state=state or RunState(),
        resumed=state is not None,
        planner=Planner(
            STRATEGIES[method] if isinstance(method, str) else method,
            StrategySettings(**(strategy or {})), wire or WireSettings(), LAYOUT, BASE, -PARAMS,
            seed, HEADS,
        ),
        pacing=pacing_of(asked, seed) if named else pacing,
        limits=Limits(run, asked, network, frozenset({"loss"})),
        optimizer=optimizer,
        transport=transport,
        evaluator=Here(evaluate),
        recorder=Recorder(folder, state, rounds, checkpoint_every, base_client_bytes),
        min_replies=asked.min_replies,
        effort=effort,
        counting=Counting(asked.weights or "uniform", guard=Guard.of(asked)),
        simulated=True,
    )  # fmt: skip


def at(values: Mapping[int, float]) -> np.ndarray:
    """Return a flat vector that is zero but for these coordinates."""
    flat = np.zeros(P, np.float32)
    flat[list(values)] = list(values.values())
    return flat


def bits(array: np.ndarray | torch.Tensor) -> bytes:
    """Return the bytes of an array, by which two are compared where equal is not enough."""
    return np.ascontiguousarray(array).tobytes()
