"""What a task is: one `TaskKind` in one file, which the rest of this project asks questions.

A kind is importable without torch, so that settings are checked on a machine that trains nothing:
what is heavy is imported inside the functions that need it.

A tally is a dictionary of sums with their denominators. Tallies of batches, and of clients, add up
key by key, and only the total is turned into metrics: no average of averages.

Shapes: B batch, T tokens of the longest row, C labels, V vocabulary.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fedllm_app.core.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from fedllm_app.data.image import ImageSpec
    from fedllm_app.data.settings import DataSettings
    from fedllm_app.data.source import Source

Tally = dict[str, Any]  # int, float, or int64 array: all three add with +
Rows = Sequence[Mapping[str, Any]]
IGNORED = -100  # label of a position that is not predicted, torch's own convention
# Parts of a batch that the model is not handed: what is trained, and what is measured beside it.
TARGETS = ("labels", "measured")


class Task(Protocol):
    """A task at work, as client and server see it.

    Attributes
    ----------
    unit : what is counted, "examples" or "tokens".
    """

    unit: str

    def collate(self, rows: Rows) -> "dict[str, Tensor]":
        """Return one batch of prepared rows, padded to its own longest."""

    def loss(self, logits: "Tensor", batch: "Mapping[str, Tensor]") -> "Tensor":
        """Return the mean loss over the units of the batch, float32, with its gradient."""

    def units(self, batch: "Mapping[str, Tensor]") -> int:
        """Return how many units the loss of a batch is the mean over."""

    def tally(self, logits: "Tensor", batch: "Mapping[str, Tensor]") -> Tally:
        """Return the sums of one batch; `units` is the denominator of the others."""

    def metrics(self, tally: Tally) -> dict[str, float]:
        """Return the metrics of a total; DataError if it holds no unit."""


class Model(Protocol):
    """The model as an evaluation sees it.

    Attributes
    ----------
    backbone : the transformers model, whose `generate` an evaluation may call.
    """

    @property
    def backbone(self) -> Any:
        """The transformers model."""

    def logits(self, batch: "Mapping[str, Tensor]") -> "Tensor":
        """Return the float32 logits of a batch."""


class Prepare(Protocol):
    """Write the rows of a source as an Arrow file."""

    def __call__(
        self,
        raw: "Dataset",
        source: "Source",
        settings: "DataSettings",
        tokenizer: Any,
        max_tokens: int,
        labels: Sequence[str] | None,
        file: Path,
    ) -> str | None:
        """Write the columns of the kind, and source_row, the number of the row each came from.

        Parameters
        ----------
        raw : rows as they are in the source.
        source : named in error messages.
        settings : names of columns.
        tokenizer : of transformers; None for images.
        max_tokens : longest row.
        labels : label names, None where the kind needs none.
        file : Arrow file to write.

        Returns
        -------
        What was left out of these rows, in words; "" or None where nothing was.
        """


def sum_tallies(
    task: Task, model: Model, batches: "Iterable[dict[str, Tensor]]", tokenizer: Any
) -> Tally:
    """Return the summed tallies of all batches: how a task is evaluated unless it says otherwise.

    Parameters
    ----------
    task : gives the tally of a batch.
    model : in eval mode, and no gradient is kept.
    batches : on the model's device.
    tokenizer : of transformers, None for images; not read here.
    """
    return add_tallies(task.tally(model.logits(batch), batch) for batch in batches)


@dataclass(frozen=True)
class Metric:
    """One number of an evaluation.

    Attributes
    ----------
    name : as in the task's metrics.
    falls : whether less is better.
    """

    name: str
    falls: bool = False


@dataclass(frozen=True)
class TaskKind:
    """Everything that the rest of this project asks of a task.

    Attributes
    ----------
    name : of the task.
    auto_model : class of transformers that loads the model, such as "AutoModelForCausalLM".
    columns : of prepared rows that a batch is made of.
    metrics : the headline first.
    prepare : writes prepared rows.
    make : returns the task at work from the pad token and, for images, how they are scaled.
    evaluate : returns the tally of all batches; it may generate.
    needs_labels : whether there is a label set; its size is that of the model's head.
    has_head : whether the model has a head of its own above the backbone.
    images : whether inputs are images; else they are text.
    reads : settings that name the columns of the source which must be there, "text_column" and the
        like; rows without a value there are refused or dropped, as data.bad-rows says.
    embedded : the built-in task whose embedded text and backbone it can use, "" if none.
    config : more keys of the model's config, such as {"num_labels": 1}.
    packed : rows are of one length and come to `collate` as arrays (`Table.arrays`), and a client
        reads them as a stream unless `client.reading` says otherwise.
    whole_rows : packed rows hold whole examples, which always stay apart, and are read in epochs.
    chat : rows are conversations: they depend on the chat template of the tokenizer, and the model
        can answer held-out ones at the end of a run (task.generate).
    domains : prepared rows have the column "domain" where the source has data.domain-column.
    check : raises DataError if the columns of a source are of no known shape; beside `reads`.
    fitted : returns this kind as the settings of a run (namespace task) ask for it.
    sums : every name of a tally with what it is (tasks/sums.py), by which a server checks what a
        device measured; empty, no device is asked.
    """

    name: str
    auto_model: str
    columns: tuple[str, ...]
    metrics: tuple[Metric, ...]
    prepare: Prepare
    make: "Callable[[int, ImageSpec | None], Task]"
    evaluate: "Callable[[Task, Model, Iterable[dict[str, Tensor]], Any], Tally]" = sum_tallies
    needs_labels: bool = False
    has_head: bool = False
    images: bool = False
    reads: tuple[str, ...] = ()
    embedded: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    packed: bool = False
    whole_rows: bool = False
    chat: bool = False
    domains: bool = False
    check: "Callable[[Sequence[str], DataSettings, Source], object] | None" = None
    fitted: "Callable[[TaskKind, Any], TaskKind] | None" = None
    sums: Mapping[str, str] = field(default_factory=dict)

    @property
    def headline(self) -> str:
        """Name of the metric shown first."""
        return self.metrics[0].name

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of all metrics, the headline first."""
        return tuple(metric.name for metric in self.metrics)

    @property
    def falling(self) -> frozenset[str]:
        """Names of the metrics of which less is better."""
        return frozenset(metric.name for metric in self.metrics if metric.falls)

    @property
    def causal(self) -> bool:
        """Whether the model predicts each token from those before it."""
        return self.auto_model == "AutoModelForCausalLM"


def add_tallies(tallies: Iterable[Tally]) -> Tally:
    """Return the sum, key by key; {} of none."""
    total: Tally = {}
    for tally in tallies:
        total = {k: total[k] + v for k, v in tally.items()} if total else dict(tally)
    return total


def padded(rows: Rows, pad_id: int) -> "dict[str, Tensor]":
    """Return input_ids and attention_mask of shape (B, T), int64, filled up on the right."""
    import torch

    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        count = len(row["input_ids"])
        ids[i, :count] = torch.as_tensor(row["input_ids"], dtype=torch.int64)
        mask[i, :count] = 1
    return {"input_ids": ids, "attention_mask": mask}


def units_of(tally: Tally) -> int:
    """Return the units of a total; DataError if there is none."""
    units = int(tally.get("units", 0))
    if units < 1:
        raise DataError("there is nothing to measure: the tally holds no units")
    return units
