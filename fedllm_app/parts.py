"""The parts of one process: data, task, model, each built once at first use.

Here and nowhere else are they put together from a RunConfig; a device's own paths come from its
node-config alone.

Shapes: P trainable parameters.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedllm_app.client.effort import effort_of
from fedllm_app.client.gradient import Batch
from fedllm_app.client.settings import STREAM, WRAP
from fedllm_app.client.train import Device
from fedllm_app.config import RunConfig
from fedllm_app.core.counts import Counts
from fedllm_app.core.effort import Effort
from fedllm_app.core.errors import WireError
from fedllm_app.core.heads import Heads
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import Work
from fedllm_app.core.region import Where
from fedllm_app.data.federated import FederatedData, batches, federated_data, node_data, stream
from fedllm_app.data.image import ImageSpec
from fedllm_app.data.labels import fixed_labels
from fedllm_app.data.own import built_in
from fedllm_app.data.table import Rows, Table
from fedllm_app.data.users import own_rows
from fedllm_app.models.adapter import wrap
from fedllm_app.models.apart import check_apart
from fedllm_app.models.attention import attend_in_float32
from fedllm_app.models.backbone import (
    device_of,
    load_backbone,
    load_tokenizer,
    local_source,
)
from fedllm_app.models.flops import StepCost, step_cost
from fedllm_app.models.heads import attention_heads
from fedllm_app.models.image import image_spec
from fedllm_app.models.positions import check_positions
from fedllm_app.models.scratch import scratch_folder
from fedllm_app.models.settings import BACKBONES, TRAIN
from fedllm_app.models.suits import check_reads
from fedllm_app.models.trainable import TrainableModel
from fedllm_app.models.vocabulary import tokenizer_digest, trained_tokenizer
from fedllm_app.place import Place
from fedllm_app.tasks.base import Tally, Task, TaskKind
from fedllm_app.tasks.by_class import by_class

log = logging.getLogger("fedllm")
EVALUATION_BATCH = 64
COUNTED_ROWS = 8  # of a batch whose operations are counted
EVALUATION_TOKENS = 1 << 12  # of long rows: at 32,000 tokens the logits take 0.5 GB


class Parts:
    """Tokenizer, task, data and model of one run in one process, each built at first use."""

    def __init__(self, config: RunConfig, place: Place) -> None:
        self.config, self.place = config, place
        self.classes: list[dict[str, Any]] = []  # of the latest evaluation
        self.cache = place.home / "cache"
        if config.client.threads:
            torch.set_num_threads(config.client.threads)

    @cached_property
    def source(self) -> str:
        """The backbone: a folder or a hub name."""
        c = self.config
        if c.model.scratch:
            return str(
                scratch_folder(c.model.source, self.tokenizer, c.task.max_tokens, self.cache)
            )
        name = self.place.model or c.model.source
        if name in BACKBONES:
            make = built_in("model.source", name, BACKBONES[name])
            return str(make(self.cache, c.task.name))
        return local_source(name, self.cache)

    @property
    def named(self) -> str:
        """The backbone as a result names it: a model from scratch is no folder."""
        return self.config.model.source if self.config.model.scratch else self.source

    @cached_property
    def kind(self) -> TaskKind:
        """What the task is."""
        return self.config.task.kind

    @cached_property
    def image(self) -> ImageSpec | None:
        """How images are scaled, None for text."""
        return image_spec(self.source, self.config.data.image_side) if self.kind.images else None

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, None for images."""
        if self.kind.images:
            return None
        c = self.config
        place = self.place.tokenizer or c.model.tokenizer
        if place == TRAIN:
            place = str(trained_tokenizer(c.data, c.task, c.model.vocabulary, self.cache))
        settings = c.model.model_copy(update={"tokenizer": place})
        # The config of a model from scratch is made for its tokenizer.
        return load_tokenizer(settings, place if c.model.scratch else self.source, self.cache)

    @cached_property
    def task(self) -> Task:
        """The task."""
        pad = self.tokenizer.pad_token_id if self.tokenizer is not None else 0
        return self.kind.make(pad, self.image)

    @cached_property
    def data(self) -> FederatedData:
        """The data of a simulation, or what the server of real devices evaluates on."""
        c = self.config
        return federated_data(c.data, c.task, c.partition, self.tokenizer, c.run.seed, self.cache)

    @cached_property
    def labels(self) -> list[str]:
        """The label names, [] for a task without."""
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
        if c.client.autocast:
            attend_in_float32(backbone)
        if not self.kind.images:
            check_positions(backbone, c.task.max_tokens, c.task.answer_tokens)
        # Adapters and head are drawn on the CPU, so that every device draws the same.
        device = device_of(c.model)
        log.info("the model computes on: %s", device)
        model = wrap(backbone, c.model, c.lora, c.run.seed)
        if self.tokenizer is not None:
            check_reads(model.backbone, self.tokenizer)
        if self.kind.packed and c.data.documents == "apart":
            check_apart(model, self.kind.whole_rows)
        if c.model.scratch:
            # Nothing is frozen, but a device with another tokenizer would learn other words.
            model.fingerprint = tokenizer_digest(self.tokenizer)
        return model.to(device)

    @cached_property
    def heads(self) -> Heads:
        """Where the attention heads lie in what is trained."""
        return attention_heads(self.model)

    @cached_property
    def initial(self) -> np.ndarray:
        """The flat values the model was built with; read first before any are loaded."""
        return self.model.values()

    @cached_property
    def own_rows(self) -> tuple[Rows, Rows]:
        """Which of a device's own examples it trains on, and which it holds out."""
        text_of_row = self.own_data.numbers("source_row")
        return own_rows(self.place.client, text_of_row, self.config.data)

    def counts(self) -> Mapping[str, int]:
        """Return the number of examples of each client that this process can play."""
        return {self.place.client: len(self.own_rows[0])} if self.place.client else self._counts

    def held(self) -> Mapping[str, int]:
        """Return the number of examples that a device holds out; {} elsewhere, or where it is 0."""
        number = len(self.own_rows[1]) if self.place.client else 0
        return {self.place.client: number} if number else {}

    @cached_property
    def _counts(self) -> Counts:
        return Counts(zip(self.data.clients, self.data.counts.tolist(), strict=True))

    def most_units(self, examples: int) -> int:
        """Return the most units (examples or tokens) that a job on so many examples can see."""
        c = self.config
        seen = c.devices.most_rows(c.client.steps, c.client.batch) or c.client.epochs * examples
        seen = math.ceil(seen * (c.devices.balance_most if c.devices.balance else 1))
        return seen * (c.task.max_tokens if self.task.unit == "tokens" else 1)

    def effort(self, work: Work, examples: int) -> Effort:
        """Return what a job on so many examples computes at most."""
        return effort_of(self.config.client, work, examples, self.config.reading == STREAM)

    def row_flops(self) -> float:
        """Return the FLOPs of an example in a local step that trains all."""
        return self.row_cost.flops()

    def row_part(self, where: Where, layout: ParamLayout) -> float:
        """Return what part of them is computed where these coordinates are trained."""
        return self.row_cost.part(where, layout)

    @cached_property
    def row_cost(self) -> StepCost:
        """What an example costs in a local step, counted on rows from all over the data."""
        table = self.data.train
        count = min(len(table), self.config.client.batch, COUNTED_ROWS)
        rows = np.linspace(0, len(table) - 1, count).astype(np.int64)
        batch = next(iter(self._read(table, rows, count, None)))
        return step_cost(self.model, batch, self.task.loss)

    def device(self, run_folder: Path) -> Device:
        """Return everything a job needs."""
        task = self.task
        return Device(
            model=self.model,
            initial=self.initial,
            loss=lambda logits, batch: (task.loss(logits, batch), task.units(batch)),
            batches=lambda client, batch, rng: self._read(*self._owned(client), batch, rng),
            settings=self.config.local,
            wire=self.config.wire,
            seed=self.config.run.seed,
            kept=run_folder / "clients",
            stream=self._stream if self.config.reading == STREAM else None,
            tally=self._held_tally,
        )

    def _stream(self, client: str, position: int, batch: int) -> Iterator[Batch]:
        """Yield a client's batches from a position of its stream on."""
        table, rows = self._owned(client)
        wraps = self.config.client.stream_end == WRAP
        for chosen in stream(rows, position, batch, self.config.run.seed, client, wraps):
            yield from self._read(table, chosen, batch, None)

    def _read(
        self, table: Table, rows: Rows, batch: int, rng: np.random.Generator | None
    ) -> Iterator[Batch]:
        return batches(table, rows, batch, rng, self._collate, self.kind.packed)

    def _owned(self, client: str) -> tuple[Table, Rows]:
        """Return a table, and its rows that the client owns; WireError if this is another's."""
        if self.place.client:
            self._check_own(client)
            return self.own_data, self.own_rows[0]
        return self.data.train, self.data.rows(self.data.number[client])

    def _held_tally(self, client: str) -> Tally:
        """Return the sums of the values that are loaded on what a device holds out."""
        self._check_own(client)
        return self.tally(self.own_data, self.own_rows[1])

    def _check_own(self, client: str) -> None:
        if client != self.place.client:
            raise WireError(f"the job is of client {client!r}; this is {self.place.client!r}")

    def _collate(self, rows: Any) -> Batch:
        """Return a batch where the model is."""
        device = self.model.flat.device
        return {name: tensor.to(device) for name, tensor in self.task.collate(rows).items()}

    def tally(self, table: Table, rows: Rows) -> Tally:
        """Return the sums of the values that are loaded on some rows."""
        at_once = EVALUATION_BATCH
        if self.kind.packed or self.kind.chat:
            at_once = max(1, EVALUATION_TOKENS // self.config.task.max_tokens)
        self.model.model.eval()
        with torch.inference_mode():
            batches = self._read(table, rows, at_once, None)
            return self.kind.evaluate(self.task, self.model, batches, self.tokenizer)

    def evaluate(self, values_P: np.ndarray) -> dict[str, float]:
        """Return the metrics of flat values on the evaluation set, headline first."""
        self.model.load(values_P)
        tally = self.tally(self.data.evaluation, np.arange(len(self.data.evaluation)))
        self.classes = by_class(tally, self.labels)
        metrics = self.task.metrics(tally)
        first = self.kind.headline
        return {first: metrics[first]} | {k: v for k, v in metrics.items() if k != first}
