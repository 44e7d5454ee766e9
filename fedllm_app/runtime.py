"""Build the parts of one run: what the server needs, what a device needs, each once per process.

Here and nowhere else are data, model and wire put together from a RunConfig.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import strftime
from typing import Any

import numpy as np
import torch

from fedllm_app.client.train import Batch, Device, answer
from fedllm_app.config import RunConfig, read_recipe
from fedllm_app.core.errors import CheckpointError, ConfigError
from fedllm_app.core.job import Reply, Request
from fedllm_app.data.federated import FederatedData, batches, federated_data, node_data
from fedllm_app.data.image import ImageSpec
from fedllm_app.data.labels import fixed_labels
from fedllm_app.data.task import Task, add_tallies, make_task
from fedllm_app.models.adapter import wrap
from fedllm_app.models.backbone import image_spec, load_backbone, load_tokenizer, local_source
from fedllm_app.models.export import save_adapter
from fedllm_app.models.trainable import TrainableModel
from fedllm_app.report.page import write_report
from fedllm_app.server.checkpoint import locked
from fedllm_app.server.loop import Loop, Transport
from fedllm_app.server.methods import STRATEGIES
from fedllm_app.server.optimizer import ServerOptimizer
from fedllm_app.server.record import Recorder

log = logging.getLogger("fedllm")
EVALUATION_BATCH = 64
CHANGEABLE = ("run.rounds", "run.checkpoint-every", "round.evaluate-every")


@dataclass(frozen=True)
class Place:
    """Where one process may read and write.

    Attributes
    ----------
    home : folder of caches and runs.
    data, model : a device's own files, in place of the run-config's.
    client : a device's own id.
    """

    home: Path
    data: str = ""
    model: str = ""
    client: str = ""

    @classmethod
    def of(cls, config: RunConfig, node_config: Mapping[str, Any] | None = None) -> "Place":
        """Return the place of a server or simulated worker, or of a device by its node-config.

        Raises
        ------
        ConfigError
            If a device lacks its own data or id.
        """
        node = node_config or {}
        home = str(node.get("home", "")) or config.run.home or str(Path.home() / ".fedllm")
        if config.data.train != "node":
            return cls(Path(home))
        if node_config is None:
            return cls(Path(home))
        client = str(node.get("client-id", node.get("partition-id", "")))
        data, model = str(node.get("data-path", "")), str(node.get("model-path", ""))
        missing = [k for k, v in (("client-id", client), ("data-path", data)) if not v]
        relative = [v for v in (home, data, model) if v and not Path(v).is_absolute()]
        if missing or relative:
            raise ConfigError(
                f"node-config lacks {missing}, and {relative} are not absolute paths; expected "
                'for example --node-config \'client-id="alice" data-path="/data/alice.jsonl"\''
            )
        if Path(config.model.source).is_absolute() and not model:
            raise ConfigError(
                f"model.source is the server's {config.model.source!r}; a device opens only paths "
                "of its own: set model-path in its node-config"
            )
        return cls(Path(home), data, model, client)


class Parts:
    """Tokenizer, task, data and model of one run in one process, each built at first use."""

    def __init__(self, config: RunConfig, place: Place) -> None:
        self.config, self.place = config, place
        self.cache = place.home / "cache"
        if config.client.threads:
            torch.set_num_threads(config.client.threads)

    @cached_property
    def source(self) -> str:
        """The backbone: a folder or a hub name."""
        name = self.place.model or self.config.model.source
        if name == "embedded":
            from fedllm_app.models.demo import demo_backbone  # simulation only: not on devices

            return str(demo_backbone(self.cache, self.config.task.name))
        return local_source(name, self.cache)

    @cached_property
    def is_image(self) -> bool:
        """Whether the task is about images."""
        return self.config.task.name == "image-classification"

    @cached_property
    def image(self) -> ImageSpec | None:
        """How images are scaled, None for text."""
        return image_spec(self.source, self.config.data.image_side) if self.is_image else None

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, None for images."""
        return None if self.is_image else load_tokenizer(self.config.model, self.source, self.cache)

    @cached_property
    def task(self) -> Task:
        """The task."""
        pad = self.tokenizer.pad_token_id if self.tokenizer is not None else 0
        return make_task(self.config.task, pad, self.image)

    @cached_property
    def data(self) -> FederatedData:
        """The data of a simulation, or what the server of real devices evaluates on."""
        c = self.config
        return federated_data(c.data, c.task, c.partition, self.tokenizer, c.run.seed, self.cache)

    @cached_property
    def labels(self) -> list[str]:
        """The label names, [] for next-token prediction."""
        if self.place.client:
            return fixed_labels(self.config.data) or []
        return self.data.labels

    @cached_property
    def own_data(self) -> Any:
        """A device's own examples."""
        c = self.config
        return node_data(self.place.data, c.data, c.task, self.tokenizer, self.cache, self.labels)

    @cached_property
    def model(self) -> TrainableModel:
        """The one backbone of this process with its trainable tensors."""
        c = self.config
        backbone = load_backbone(
            c.model,
            self.source,
            c.task.name,
            self.labels,
            self.cache,
            seed=c.run.seed,
            tokenizer=self.tokenizer,
        )
        return wrap(backbone, c.model, c.lora, c.run.seed)

    def counts(self) -> dict[str, int]:
        """Return the number of examples of each client that this process can play."""
        if self.place.client:
            return {self.place.client: len(self.own_data)}
        return dict(zip(self.data.clients, self.data.counts.tolist(), strict=True))

    def device(self, run_folder: Path) -> Device:
        """Return everything a job needs."""
        task = self.task
        return Device(
            model=self.model,
            initial=self.model.values(),
            loss=lambda logits, batch: (task.loss(logits, batch), units(task, batch)),
            batches=self._batches,
            settings=self.config.client,
            wire=self.config.wire,
            seed=self.config.run.seed,
            kept=run_folder / "clients",
        )

    def _batches(self, client: str, batch: int, rng: np.random.Generator) -> Iterator[Batch]:
        if self.place.client:
            rows = np.arange(len(self.own_data))
            return batches(self.own_data, rows, batch, rng, self.task.collate)
        rows = self.data.rows(self.data.number[client])
        return batches(self.data.train, rows, batch, rng, self.task.collate)

    def evaluate(self, values_P: np.ndarray) -> dict[str, float]:
        """Return the metrics of flat values on the evaluation set, headline first."""
        rows = np.arange(len(self.data.evaluation))
        self.model.load(values_P)
        self.model.model.eval()
        with torch.inference_mode():
            tally = add_tallies(
                self.task.tally(self.model.logits(batch), batch)
                for batch in batches(
                    self.data.evaluation, rows, EVALUATION_BATCH, None, self.task.collate
                )
            )
        metrics = self.task.metrics(tally)
        first = self.task.headline
        return {first: metrics[first]} | {k: v for k, v in metrics.items() if k != first}


def units(task: Task, batch: Batch) -> int:
    """Return what the mean loss of a batch is over: examples, or tokens that are predicted."""
    if task.unit == "examples":
        return len(batch["labels"])
    return int((batch["labels"][:, 1:] != -100).sum())


@contextmanager
def opened_run(config: RunConfig) -> Iterator[tuple[RunConfig, Path]]:
    """Yield the resolved configuration and the run's folder, held under a lock.

    Raises
    ------
    CheckpointError
        If the folder is in use, or holds a run of another configuration.
    """
    name = config.run.name or strftime(f"{config.strategy.name}-%Y%m%d-%H%M%S")
    config = config.resolved()
    config = config.model_copy(update={"run": config.run.model_copy(update={"name": name})})
    folder = Place.of(config).home / "runs" / name
    with locked(folder):
        file = folder / "config.toml"
        if file.exists():
            before, now = read_recipe(file), config.flat()
            changed = [
                f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
                for key in sorted(before.keys() | now.keys())
                if before.get(key) != now.get(key) and key not in CHANGEABLE
            ]
            if changed:
                raise CheckpointError(
                    f"run {name!r} has another configuration: {'; '.join(changed)}. "
                    "Choose another run.name, or the same settings"
                )
        file.write_text(config.toml())
        yield config, folder


def build_loop(parts: Parts, folder: Path, transport: Transport) -> Loop:
    """Return the loop of a run over a transport, restored from its checkpoint if it has one."""
    c, model = parts.config, parts.model
    initial_P = model.values()
    optimizer = ServerOptimizer(c.server, initial_P)
    recorder = Recorder(folder, optimizer, c.run.rounds, c.run.checkpoint_every, base_bytes(model))
    return Loop(
        run=c.run,
        round=c.round,
        strategy=c.strategy,
        wire=c.wire,
        method=STRATEGIES[c.strategy.name],
        layout=model.layout,
        fingerprint=model.fingerprint,
        initial=initial_P,
        optimizer=optimizer,
        transport=transport,
        evaluate=parts.evaluate if len(parts.data.evaluation) else None,
        recorder=recorder,
    )


def base_bytes(model: TrainableModel) -> int:
    """Return what a device downloads once: the frozen tensors, in their own type."""
    trained = {p.data_ptr() for p in model.model.parameters() if p.requires_grad}
    seen: dict[int, int] = {}
    for name, tensor in model.model.state_dict().items():
        if tensor.data_ptr() not in trained and ".original_module." not in name:
            seen[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
    return sum(seen.values())


def finish_run(parts: Parts, folder: Path, loop: Loop) -> None:
    """Write the model that was evaluated, and the report."""
    parts.model.load(loop.served())
    save_adapter(
        parts.model,
        folder,
        task=parts.config.task.name,
        source=parts.source,
        labels=parts.labels,
        tokenizer=parts.tokenizer,
        image=parts.image,
        metrics=loop.recorder.evaluation,
    )
    write_report(folder)


class LocalTransport:
    """Every client in this process, one after the other: for tests, pilots and sweeps."""

    def __init__(self, parts: Parts, folder: Path) -> None:
        self._parts, self._folder = parts, folder
        self._waiting: list[Request] = []

    @cached_property
    def _device(self) -> Device:
        return self._parts.device(self._folder)

    def clients(self) -> Mapping[str, int]:
        """Return the number of examples of every client."""
        return self._parts.counts()

    def submit(self, requests: Sequence[Request], timeout_s: float) -> None:
        """Take requests; they are done one by one as they are polled."""
        self._waiting = list(requests)

    def poll(self) -> list[Reply]:
        """Do the next request and return its replies."""
        return answer(self._device, self._waiting.pop(0)) if self._waiting else []


def run_local(
    config: RunConfig, transport: Callable[[Parts, Path], Transport] = LocalTransport
) -> Path:
    """Play a whole run in this process and return its folder."""
    with opened_run(config) as (resolved, folder):
        parts = Parts(resolved, Place.of(resolved))
        loop = build_loop(parts, folder, transport(parts, folder))
        loop.play()
        finish_run(parts, folder, loop)
        return folder
