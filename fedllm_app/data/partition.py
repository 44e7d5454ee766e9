"""Which client owns which row: IID, Dirichlet per class, or as the data say (natural).

The laws are those of flwr-datasets. Its DirichletPartitioner draws the Dirichlet split; the other
two laws are one line of numpy each, equal to IidPartitioner after a shuffle and to
NaturalIdPartitioner, because handing out 40,000 partitions as datasets takes half a minute there.

Shapes: N rows, C clients.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedllm_app.core.errors import DataError
from fedllm_app.core.seeds import derive_seed, generator
from fedllm_app.core.settings import Settings
from fedllm_app.data.table import Table


class PartitionSettings(Settings):
    """Namespace `partition`: how the training rows are dealt out to simulated clients."""

    name: Literal["iid", "dirichlet", "natural"] = Field(
        "iid",
        description='"iid", "dirichlet" (each class is divided among the clients; some '
        'clients can get nothing) or "natural" (one client for each value of '
        "data.user-column).",
    )
    clients: int = Field(
        20, ge=1, description="Number of clients. Natural partitions ignore it: the data decides."
    )
    alpha: float = Field(
        0.1,
        gt=0,
        description="Concentration of the Dirichlet distribution. With a small value the "
        "clients differ much; with a large value they are similar.",
    )


@dataclass(frozen=True)
class Partition:
    """Rows of every client, in one array.

    Attributes
    ----------
    clients : names, "0" to "C-1", or the user values in sorted order.
    order : int64 of shape (N,), the rows client by client.
    starts : int64 of shape (C + 1,), where each client's rows begin and the last one's end.
    """

    clients: list[str]
    order: NDArray[np.int64]
    starts: NDArray[np.int64]

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Number of rows of each client, int64 of shape (C,)."""
        return np.diff(self.starts)

    def rows(self, client: int) -> NDArray[np.int64]:
        """Return the rows of the client with this number; may be empty."""
        return self.order[self.starts[client] : self.starts[client + 1]]

    def save(self, folder: Path) -> None:
        """Write the partition into a folder."""
        np.save(folder / "order.npy", self.order)
        np.save(folder / "starts.npy", self.starts)
        (folder / "clients.json").write_text(json.dumps(self.clients))

    @classmethod
    def open(cls, folder: Path) -> "Partition":
        """Map a saved partition into memory."""
        order, starts = (
            np.load(folder / name, mmap_mode="r") for name in ("order.npy", "starts.npy")
        )
        return cls(json.loads((folder / "clients.json").read_text()), order, starts)


def partition(
    dataset: Table,
    settings: PartitionSettings,
    seed: int,
    rows: NDArray[np.int64] | None = None,
) -> Partition:
    """Deal rows out to clients; the same seed deals the same.

    Parameters
    ----------
    dataset : has a column `label` (dirichlet) or `user` (natural).
    settings : which law, how many clients.
    seed : of the run.
    rows : int64 rows to deal out; None deals all.

    Raises
    ------
    DataError
        If the column is missing or has gaps, or there are more clients than rows.
    """
    chosen = np.arange(len(dataset)) if rows is None else np.asarray(rows)
    if settings.name == "natural":
        names, parts = _natural(_column(dataset, "user", "data.user-column", chosen))
    else:
        if settings.clients > len(chosen):
            raise DataError(
                f"partition.clients is {settings.clients}, but there are {len(chosen)} training "
                "examples; expected at most one client per example"
            )
        names = [str(i) for i in range(settings.clients)]
        if settings.name == "iid":
            shuffled = generator(seed, "partition").permutation(len(chosen))
            parts = np.array_split(shuffled, settings.clients)
        else:
            labels = _column(dataset, "label", "data.label-column", chosen)
            parts = _dirichlet(labels, settings, derive_seed(seed, "partition"))
    starts = np.concatenate([[0], np.cumsum([len(p) for p in parts])]).astype(np.int64)
    return Partition(names, chosen[np.concatenate(parts)].astype(np.int64), starts)


def _column(dataset: Table, name: str, key: str, rows: NDArray[np.int64]) -> NDArray[np.str_]:
    if name not in dataset.column_names:
        law = {"user": "natural", "label": "dirichlet"}[name]
        raise DataError(
            f"partition.name is {law!r}, which needs a column of {name}s; the training data has "
            f"no column that {key} names. Set {key}, or another partition.name"
        )
    values = dataset.column(name).to_pylist()
    if None in values:
        raise DataError(
            f"{key} is empty in training row {values.index(None)}; expected a {name} in every row"
        )
    return np.asarray(values)[rows]


def _natural(users_N: NDArray[np.str_]) -> tuple[list[str], list[NDArray[np.int64]]]:
    """Return user names in sorted order and the rows of each, ascending."""
    names, user_of_row, counts = np.unique(users_N, return_inverse=True, return_counts=True)
    by_user = np.argsort(user_of_row, kind="stable").astype(np.int64)
    return [str(n) for n in names], np.split(by_user, np.cumsum(counts)[:-1])


def _dirichlet(
    labels_N: NDArray[np.str_], settings: PartitionSettings, seed: int
) -> list[NDArray[np.int64]]:
    """Return the rows of each client, drawn by flwr-datasets."""
    from datasets import Dataset
    from flwr_datasets.partitioner import DirichletPartitioner

    partitioner = DirichletPartitioner(
        num_partitions=settings.clients,
        partition_by="label",
        alpha=float(settings.alpha),
        min_partition_size=0,
        self_balancing=False,
        seed=seed,
    )
    partitioner.dataset = Dataset.from_dict({"row": np.arange(len(labels_N)), "label": labels_N})
    partitioner.load_partition(0)  # draws the whole assignment
    # The assignment is no public attribute. Without it, each partition is asked for: the same
    # rows, a thousand clients a second.
    assigned = getattr(partitioner, "_partition_id_to_indices", None)
    if assigned is None:
        every = range(settings.clients)
        assigned = {i: partitioner.load_partition(i)["row"][:] for i in every}
    return [np.asarray(assigned[i], np.int64) for i in range(settings.clients)]
