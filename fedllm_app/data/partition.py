"""Which client owns which row: IID, Dirichlet per class, or as the data say (natural).

The laws are those of flwr-datasets. Its DirichletPartitioner draws the Dirichlet split; the other
two laws are one line of numpy each, equal to IidPartitioner after a shuffle and to
NaturalIdPartitioner, because handing out 40,000 partitions as datasets takes half a minute there.

Shapes: N rows, C clients.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedllm_app.core.errors import DataError
from fedllm_app.core.extend import load
from fedllm_app.core.seeds import derive_seed, generator
from fedllm_app.core.settings import Settings
from fedllm_app.data.table import Table

FITTING = 200  # turns between the sizes of clients and those of sources


class PartitionSettings(Settings):
    """Namespace `partition`: how the training rows are dealt out to simulated clients."""

    name: str = Field(
        "iid",
        description='"iid", "dirichlet" (each class, or value of partition.by, is divided among '
        'the clients; some can get nothing), "natural" (one client for each value of '
        "data.user-column), "
        '"mixture" (clients with equally many rows, each a mixture of the values of '
        "data.user-column), or MODULE:NAME of your own.",
    )
    clients: int = Field(
        20, ge=1, description="Number of clients. Natural partitions ignore it: the data decides."
    )
    by: Literal["", "label", "domain"] = Field(
        "",
        description="Column whose values a Dirichlet partition divides: 'label' "
        "(data.label-column) or 'domain' (data.domain-column). Automatic: the label, and the "
        "domain for a task without labels.",
    )
    alpha: float = Field(
        0.1,
        gt=0,
        description="Concentration of the Dirichlet distribution. With a small value the "
        "clients differ much; with a large value they are similar.",
    )


Law = Callable[[Table, NDArray[np.int64], PartitionSettings, int], Mapping[str, NDArray[np.int64]]]


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
    dealt = law_of(settings.name)(dataset, chosen, settings, seed)
    if settings.name not in LAWS:
        _check(dealt, chosen, settings.name)
    parts = list(dealt.values())
    starts = np.concatenate([[0], np.cumsum([len(p) for p in parts])]).astype(np.int64)
    return Partition(list(dealt), np.concatenate(parts).astype(np.int64), starts)


def law_of(name: str) -> Law:
    """Return a law by its name, or one of your own by "MODULE:NAME".

    Raises
    ------
    ConfigError
        If there is none.
    """
    law: Law = load("partition.name", name, callable, LAWS)
    return law


def _check(dealt: object, rows: NDArray[np.int64], name: str) -> None:
    """Raise DataError if what a law of somebody's own dealt out is no partition of the rows."""
    said = f"partition.name is {name!r}, which"
    if not (isinstance(dealt, Mapping) and dealt and all(isinstance(c, str) for c in dealt)):
        raise DataError(f"{said} gives no dict from names of clients to rows, or an empty one")
    parts = [np.asarray(part) for part in dealt.values()]
    if any(part.ndim != 1 or (part.size and part.dtype.kind not in "iu") for part in parts):
        raise DataError(f"{said} gives a client something other than an array of whole numbers")
    every, times = np.unique(np.concatenate(parts), return_counts=True)
    if (times > 1).any():
        raise DataError(f"{said} gives row {every[times > 1][0]} to two clients; expected one")
    if strange := np.setdiff1d(every, rows).tolist():
        raise DataError(f"{said} deals out row {strange[0]}, which is no training row")


def _names(settings: PartitionSettings, rows: NDArray[np.int64]) -> list[str]:
    if settings.clients > len(rows):
        raise DataError(
            f"partition.clients is {settings.clients}, but there are {len(rows)} training "
            "examples; expected at most one client per example"
        )
    return [str(i) for i in range(settings.clients)]


def _iid(
    table: Table, rows: NDArray[np.int64], settings: PartitionSettings, seed: int
) -> dict[str, NDArray[np.int64]]:
    """Deal shuffled rows out in equal parts."""
    names = _names(settings, rows)
    shuffled = rows[generator(seed, "partition").permutation(len(rows))]
    return dict(zip(names, np.array_split(shuffled, settings.clients), strict=True))


def _natural(
    table: Table, rows: NDArray[np.int64], settings: PartitionSettings, seed: int
) -> dict[str, NDArray[np.int64]]:
    """Give every user their rows, ascending; users in sorted order."""
    users_N = _column(table, "user", "data.user-column", rows, settings.name)
    names, user_of_row, counts = np.unique(users_N, return_inverse=True, return_counts=True)
    by_user = rows[np.argsort(user_of_row, kind="stable")]
    parts = np.split(by_user, np.cumsum(counts)[:-1])
    return {str(name): part for name, part in zip(names, parts, strict=True)}


def _column(
    dataset: Table, name: str, key: str, rows: NDArray[np.int64], law: str
) -> NDArray[np.str_]:
    if name not in dataset.column_names:
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


def _dirichlet(
    table: Table, rows: NDArray[np.int64], settings: PartitionSettings, seed: int
) -> dict[str, NDArray[np.int64]]:
    """Deal the rows of each label out in shares that flwr-datasets draws."""
    from datasets import Dataset
    from flwr_datasets.partitioner import DirichletPartitioner

    names = _names(settings, rows)
    by = settings.by or ("label" if "label" in table.column_names else "domain")
    labels_N = _column(table, by, f"data.{by}-column", rows, settings.name)
    partitioner = DirichletPartitioner(
        num_partitions=settings.clients,
        partition_by="label",
        alpha=float(settings.alpha),
        min_partition_size=0,
        self_balancing=False,
        seed=derive_seed(seed, "partition"),
    )
    partitioner.dataset = Dataset.from_dict({"row": np.arange(len(labels_N)), "label": labels_N})
    partitioner.load_partition(0)  # draws the whole assignment
    # The assignment is no public attribute. Without it, each partition is asked for: the same
    # rows, a thousand clients a second.
    assigned = getattr(partitioner, "_partition_id_to_indices", None)
    if assigned is None:
        every = range(settings.clients)
        assigned = {i: partitioner.load_partition(i)["row"][:] for i in every}
    return {name: rows[np.asarray(assigned[i], np.int64)] for i, name in enumerate(names)}


def _mixture(
    table: Table, rows: NDArray[np.int64], settings: PartitionSettings, seed: int
) -> dict[str, NDArray[np.int64]]:
    """Give every client as many rows, of sources in shares drawn from Dirichlet(alpha).

    No source has more rows than it has: the shares are brought to the sizes of clients and of
    sources by turns (iterative proportional fitting), which changes them as little as it must.
    """
    names = _names(settings, rows)
    users_N = _column(table, "user", "data.user-column", rows, settings.name)
    _, user_of_row, supply_S = np.unique(users_N, return_inverse=True, return_counts=True)
    rng, C = generator(seed, "partition"), settings.clients
    share_CS = rng.dirichlet(np.full(supply_S.size, settings.alpha), C) + 1e-9
    for _ in range(FITTING):
        share_CS *= len(rows) / C / share_CS.sum(1, keepdims=True)
        share_CS *= supply_S / share_CS.sum(0)
    parts: list[list[NDArray[np.int64]]] = [[] for _ in names]
    for s, supply in enumerate(supply_S):
        own = rows[rng.permutation(np.flatnonzero(user_of_row == s))]
        ends = np.rint(np.cumsum(share_CS[:, s]) * supply / share_CS[:, s].sum()).astype(int)
        for part, piece in zip(parts, np.split(own, ends[:-1]), strict=True):
            part.append(piece)
    return {n: np.sort(np.concatenate(part)) for n, part in zip(names, parts, strict=True)}


# Every law: (prepared rows, the rows to deal out, settings, seed) -> the rows of each client.
LAWS: dict[str, Law] = {
    "iid": _iid, "dirichlet": _dirichlet, "natural": _natural, "mixture": _mixture,
}  # fmt: skip
# These deal out to partition.clients; others tell how many clients there are.
TO_CLIENTS = ("iid", "dirichlet", "mixture")
BY_LABEL = ("dirichlet",)  # need labels, or domains
BY_USER = ("natural", "mixture")  # need a column of users
