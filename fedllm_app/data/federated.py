"""The examples of a whole federation, or of one device, prepared once and opened in milliseconds.

Prepared data lie in `<cache>/data/<digest>/`: train.arrow, test.arrow where the source has a test
set, labels.json, and one folder per partition. The digest covers the files read (path, size, time
of change), the settings that matter, and the tokenizer's contents.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fedllm_app.core.errors import DataError
from fedllm_app.core.seeds import generator
from fedllm_app.data.cache import build_once, digest
from fedllm_app.data.heldout import evaluation_order, hold_out
from fedllm_app.data.labels import fixed_labels
from fedllm_app.data.own import own_identity
from fedllm_app.data.partition import Partition, PartitionSettings, partition
from fedllm_app.data.places import source_of_test, source_of_train
from fedllm_app.data.prepared import Asked, Notes, prepared
from fedllm_app.data.settings import NODE, DataSettings
from fedllm_app.data.source import Source
from fedllm_app.data.table import Rows, Table
from fedllm_app.data.users import SEEN, TRAIN, UNSEEN, Measured, by_domain, by_user, set_apart

T = TypeVar("T")


@dataclass(frozen=True)
class FederatedData:
    """Training rows with their owners, and what the server evaluates on.

    Attributes
    ----------
    train : prepared rows of all clients; empty where each device has its own file.
    evaluation : prepared rows sorted by length, so that batches need little padding; empty if
        `data.train` is "node" and there is no `data.test`.
    labels : label names; [] for next-token prediction.
    partition : who owns which row of `train`.
    notes : what was found in the data: classes with their counts, rows that were left out.
    open_measured : opens `measured`.
    """

    train: Table
    evaluation: Table
    labels: list[str]
    partition: Partition
    notes: Notes = field(default_factory=Notes)
    open_measured: Callable[[Mapping[str, int]], dict[str, Measured]] = lambda clients: {}

    @cached_property
    def measured(self) -> dict[str, Measured]:
        """What is measured client by client, by kind of clients; opened when it is asked for."""
        return self.open_measured(self.number)

    @property
    def clients(self) -> list[str]:
        """Names of the clients, by number."""
        return self.partition.clients

    @property
    def counts(self) -> Rows:
        """Number of training rows of each client, int64 of shape (C,); 0 is legal."""
        return self.partition.counts

    @cached_property
    def number(self) -> Mapping[str, int]:
        """Number of each client, by name."""
        return {name: i for i, name in enumerate(self.clients)}

    def rows(self, client: int) -> Rows:
        """Return the rows of `train` that the client with this number owns."""
        return self.partition.rows(client)


def federated_data(
    data: DataSettings,
    task: Asked,
    partition_settings: PartitionSettings,
    tokenizer: Any,
    seed: int,
    cache: Path,
) -> FederatedData:
    """Open the data of a run, preparing it first if no process has.

    Parameters
    ----------
    data, task, partition_settings : what to read and how to deal it out.
    tokenizer : of transformers; None for images.
    seed : of the run; the partition depends on it.
    cache : absolute folder for prepared data.

    Raises
    ------
    DataError
        If the data are not as the settings describe them; the message names the key.
    """
    if data.train == NODE:
        return _evaluation_only(data, task, tokenizer, cache)
    made = prepared(data, task, tokenizer, cache, source_of_train(data), source_of_test(data))
    folder = made.folder
    train = _opened(folder / "train.arrow", task)
    has_test = (folder / "test.arrow").exists()
    held_out, kept = hold_out(train, data, not has_test)
    if data.evaluate_on == "test" and has_test:
        whole = _opened(folder / "test.arrow", task)
        chosen = evaluation_order(whole, np.arange(len(whole)), data)
    else:
        whole, chosen = train, evaluation_order(train, held_out, data)
    evaluation = _columns(whole, task).select(chosen)
    dealt = _dealt(folder, train, kept, data, partition_settings, seed)
    apart = (dealt / TRAIN).exists()
    columns, trained = _columns(train, task), Partition.open(dealt / TRAIN if apart else dealt)

    def of_clients(clients: Mapping[str, int]) -> dict[str, Measured]:
        """Open what is measured client by client."""
        domains = by_domain(whole, _columns(whole, task), chosen)
        if apart:
            kinds = (SEEN, UNSEEN)
            found = {kind: Measured(columns, Partition.open(dealt / kind)) for kind in kinds}
            return found | domains
        test = _opened(folder / "test.arrow", task) if has_test else None
        return (by_user(test, _columns(test, task), clients) if test else {}) | domains

    return FederatedData(columns, evaluation, made.labels, trained, made.notes, of_clients)


def _dealt(
    folder: Path,
    train: Table,
    kept: Rows,
    data: DataSettings,
    settings: PartitionSettings,
    seed: int,
) -> Path:
    """Return the folder that says who owns which row; of three where some are set apart."""
    apart = [data.client_holdout, data.unseen_clients]
    key = digest(
        settings.model_dump(),
        seed,
        data.evaluate_on,
        data.holdout,
        *own_identity(settings.name),
        *(("by name", *apart) if any(apart) else ()),
    )

    def deal(temporary: Path) -> None:
        """Deal the rows out, and set apart what is measured client by client."""
        dealt = partition(train, settings, seed, kept)
        if not any(apart):
            dealt.save(temporary)
            return
        for name, part in set_apart(dealt, train.numbers("source_row"), data).items():
            (temporary / name).mkdir()
            part.save(temporary / name)

    return build_once(folder / f"partition-{key}", deal)


def node_data(
    path: str | Path,
    data: DataSettings,
    task: Asked,
    tokenizer: Any,
    cache: Path,
    labels: Sequence[str] | None = None,
) -> Table:
    """Open a device's own file, with the columns and settings of the run.

    Parameters
    ----------
    path : absolute, from the device's node-config.
    data, task : of the run.
    tokenizer : of transformers; None for images.
    cache : absolute folder under the device's own home.
    labels : label names of the run; none takes `data.labels`, which must then be set.

    Raises
    ------
    DataError
        If the file is not as the settings describe it, or the label set is not known.
    """
    source = Source("node-config data-path", str(path), data.train_split, settings=data)
    if not Path(path).is_absolute():
        raise DataError(f"{source}; expected an absolute path")
    known = list(labels) if labels else fixed_labels(data)
    if not known and task.kind.needs_labels:
        raise DataError(
            f"data.labels is '' and data.train is {data.train!r}: a device that sees its own file "
            "only cannot know the label set. Set data.labels to a count or to names"
        )
    made = prepared(data, task, tokenizer, cache, source, None, known)
    return _columns(_opened(made.folder / "train.arrow", task), task)


def batches(
    dataset: Table,
    rows: Rows,
    batch: int,
    rng: np.random.Generator | None,
    collate: Callable[[Any], T],
    packed: bool = False,
) -> Iterator[T]:
    """Yield one epoch of batches, the last one shorter where it must be.

    Parameters
    ----------
    dataset : prepared rows.
    rows : int64 rows to go through.
    batch : rows per batch.
    rng : shuffles them; None keeps their order.
    collate : of the task.
    packed : it takes columns as arrays, not rows.
    """
    order = rows if rng is None else rng.permutation(rows)
    for start in range(0, len(order), batch):
        if packed:
            yield collate(dataset.arrays(order[start : start + batch]))
            continue
        columns = dataset[order[start : start + batch].tolist()]
        yield collate(
            [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        )


def stream(
    rows: Rows, start: int, batch: int, seed: int, client: str, wraps: bool = True
) -> Iterator[Rows]:
    """Yield the rows of a client's stream from a position on, batch by batch.

    The stream is all of its rows in one order, then all of them in another, and so on. The orders
    are drawn from (seed, client, which time).

    Parameters
    ----------
    rows : int64 rows that the client owns, at least one.
    start : position, rows that were used before.
    wraps : it has no end; else it has each row once, and its last batch may be shorter.
    """
    time, at = divmod(start, len(rows))
    left = np.zeros(0, np.int64)
    while wraps or not time:
        order = rows[generator(seed, "stream", client, time).permutation(len(rows))]
        left = np.concatenate([left, order[at:]])
        while len(left) >= batch:
            yield left[:batch]
            left = left[batch:]
        time, at = time + 1, 0
    if left.size:
        yield left


def _evaluation_only(data: DataSettings, task: Asked, tokenizer: Any, cache: Path) -> FederatedData:
    """Return what the server of real devices has: a test set, if one is named, and the labels."""
    nobody = Partition([], np.zeros(0, np.int64), np.zeros(1, np.int64))
    nothing = Table.empty()
    if data.test:
        made = prepared(data, task, tokenizer, cache, None, source_of_test(data))
        measured = _opened(made.folder / "test.arrow", task)
        evaluation = _measured(measured, np.arange(len(measured)), data, task)
        notes = replace(made.notes, classes=dict.fromkeys(made.labels))
        users = partial(by_user, measured, _columns(measured, task))
        return FederatedData(nothing, evaluation, made.labels, nobody, notes, users)
    labels = fixed_labels(data) or []
    if not labels and task.kind.needs_labels:
        raise DataError(
            "data.labels is '' and data.train is 'node' without data.test: the server cannot know "
            "the label set. Set data.labels to a count or to names"
        )
    return FederatedData(nothing, nothing, labels, nobody, Notes(dict.fromkeys(labels)))


def _opened(file: Path, task: Asked) -> Table:
    table = Table.open(file)
    needed = {*task.kind.columns, "source_row"}
    if lost := sorted(needed - set(table.column_names)):
        raise DataError(
            f"task.name is {task.name!r}, whose prepare wrote no column {lost[0]!r}; expected "
            f"{', '.join(sorted(needed))}"
        )
    return table


def _columns(dataset: Table, task: Asked) -> Table:
    return dataset.select_columns(list(task.kind.columns))


def _measured(dataset: Table, rows: Rows, data: DataSettings, task: Asked) -> Table:
    return _columns(dataset, task).select(evaluation_order(dataset, rows, data))
