"""What is measured client by client: examples that a client does not train on, and unseen clients.

Every draw hangs on a client's name and its own texts, and not on the run's seed: runs that differ
in their seed are measured on the same clients and examples, where the partition is the same. Nor
does a draw hang on who else is there, so that a device, which knows its own texts alone, finds what
a simulation of the same data finds.

Shapes: N rows, C clients, T pairs of a client and a text of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedllm_app.core.errors import DataError
from fedllm_app.core.seeds import derive_seeds
from fedllm_app.data.partition import Partition, PartitionSettings, partition
from fedllm_app.data.settings import DataSettings
from fedllm_app.data.table import Rows, Table

SEEN, UNSEEN = "seen", "unseen"  # clients that may train, and those that never do
UNSEEN_CLIENTS = "unseen clients"
DOMAIN = "domain"  # not clients: what is evaluated, by its domain
TRAIN = "train"


@dataclass(frozen=True)
class Measured:
    """Examples that are measured, by client.

    Attributes
    ----------
    table : prepared rows.
    partition : who owns which of them.
    """

    table: Table
    partition: Partition

    @cached_property
    def _order(self) -> list[int]:
        """Clients with examples, in the order in which they are chosen."""
        having = np.flatnonzero(self.partition.counts).tolist()
        names = self.partition.clients
        return [having[i] for i in in_order([names[i] for i in having])]

    def chosen(self, most: int) -> list[tuple[str, Rows]]:
        """Return clients with examples and their rows: at most so many, always the same."""
        having = sorted(self._order[:most])
        return [(self.partition.clients[i], self.partition.rows(i)) for i in having]


def drawn(purpose: str, clients: Sequence[str]) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each client, drawn by purpose and name alone."""
    shares: NDArray[np.float64] = (derive_seeds(purpose, clients) >> 10) / float(1 << 53)
    return shares


def in_order(clients: Sequence[str]) -> list[int]:
    """Return the numbers of clients in the order in which they are chosen to be measured.

    Where one comes or goes, the others stay in their order.
    """
    numbers: list[int] = np.argsort(drawn("measured clients", clients), kind="stable").tolist()
    return numbers


def is_unseen(client: str, data: DataSettings) -> bool:
    """Say whether a device never trains; each draws for itself, so the share is that of many."""
    return bool(drawn(UNSEEN_CLIENTS, [client])[0] < data.unseen_clients)


def own_rows(client: str, text_of_row: NDArray[np.int64], data: DataSettings) -> tuple[Rows, Rows]:
    """Return the rows of a device's own that it trains on, and those that it is measured by.

    Parameters
    ----------
    client : its name.
    text_of_row : number of the text that each row came from, int64 of shape (N,), ascending in the
        order in which a simulation would have these texts.
    """
    rows = np.arange(len(text_of_row))
    if is_unseen(client, data):
        return rows[:0], rows
    held_N = _held_out([client], np.zeros_like(rows), text_of_row, data.client_holdout)
    return rows[~held_N], rows[held_N]


def set_apart(
    dealt: Partition, text_of_row: NDArray[np.int64], data: DataSettings
) -> dict[str, Partition]:
    """Return who trains on which rows, and who is measured on which: TRAIN, SEEN, UNSEEN.

    A client keeps at least one text to train on: with one alone it is not measured.

    Parameters
    ----------
    dealt : rows of every client.
    text_of_row : number of the text that each row of the table came from; the blocks of one text
        stay together.

    Raises
    ------
    DataError
        If no client is left to train.
    """
    counts, C = dealt.counts, len(dealt.clients)
    client_N = np.repeat(np.arange(C), counts)
    away_C = np.zeros(C, bool)
    if data.unseen_clients:
        having = np.flatnonzero(counts)
        number = max(1, round(data.unseen_clients * len(having)))
        if number >= len(having):
            raise DataError(
                f"data.unseen-clients is {data.unseen_clients:g}, which leaves nobody of "
                f"{len(having)} clients to train; expected a smaller share"
            )
        names = [dealt.clients[i] for i in having.tolist()]
        away_C[having[np.argsort(drawn(UNSEEN_CLIENTS, names), kind="stable")[:number]]] = True
    held_N = _held_out(dealt.clients, client_N, text_of_row[dealt.order], data.client_holdout)
    held_N &= ~away_C[client_N]
    return {
        TRAIN: _part(dealt, ~away_C, ~held_N & ~away_C[client_N]),
        SEEN: _part(dealt, ~away_C, held_N),
        UNSEEN: _part(dealt, away_C, away_C[client_N]),
    }


def by_user(table: Table, columns: Table, clients: Mapping[str, int]) -> dict[str, Measured]:
    """Return test rows by their user; {} where they have no column of users.

    Parameters
    ----------
    table : prepared test rows, all columns.
    columns : the same with the columns of a batch.
    clients : those that may train.
    """
    if "user" not in table.column_names or not len(table):
        return {}
    dealt = partition(table, PartitionSettings(name="natural"), 0)
    known_C = np.array([client in clients for client in dealt.clients])
    client_N = np.repeat(np.arange(len(known_C)), dealt.counts)
    return {
        SEEN: Measured(columns, _part(dealt, known_C, known_C[client_N])),
        UNSEEN: Measured(columns, _part(dealt, ~known_C, ~known_C[client_N])),
    }


def by_domain(table: Table, columns: Table, rows: Rows) -> dict[str, Measured]:
    """Return the rows that are evaluated by their domain; {} where they have no such column.

    Parameters
    ----------
    table : prepared rows, all columns.
    columns : the same with the columns of a batch.
    rows : int64 rows that are evaluated; those without a domain are left out.
    """
    if "domain" not in table.column_names or not len(rows):
        return {}
    values = table.column("domain").to_pylist()
    found: dict[str, list[int]] = {}
    for row in rows.tolist():
        if values[row] is not None:
            found.setdefault(values[row], []).append(row)
    names = sorted(found)
    starts = np.concatenate([[0], np.cumsum([len(found[name]) for name in names])])
    order = np.array([row for name in names for row in found[name]], np.int64)
    return {DOMAIN: Measured(columns, Partition(names, order, starts.astype(np.int64)))}


def _held_out(
    clients: Sequence[str], client_N: NDArray[np.int64], text_N: NDArray[np.int64], share: float
) -> NDArray[np.bool_]:
    """Say of each row, client by client, whether its client does not train on it."""
    if not share or not len(text_N):
        return np.zeros(len(text_N), bool)
    width = int(text_N.max()) + 1
    pairs_T, pair_N = np.unique(client_N * width + text_N, return_inverse=True)
    client_T, C = pairs_T // width, len(clients)
    texts_C = np.bincount(client_T, minlength=C)
    # Pairs are in the order of their clients: where one stands among those of its own is its place
    # less that of the first.
    first_C = np.cumsum(texts_C) - texts_C
    number_T = np.arange(len(pairs_T)) - first_C[client_T]
    key_C = derive_seeds("held-out of clients", clients).astype(np.uint64)
    drawn_T = np.lexsort((_mixed(key_C[client_T], number_T), client_T))
    place_T = np.empty(len(pairs_T), np.int64)
    place_T[drawn_T] = number_T
    most_C = np.clip(np.rint(share * texts_C), 1, None)
    most_C = np.minimum(most_C, np.maximum(texts_C - 1, 0))
    held_T: NDArray[np.bool_] = place_T < most_C[client_T]
    return held_T[pair_N]


def _mixed(key_T: NDArray[np.uint64], number_T: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the draw of each number under its key, uint64.

    It is SplitMix64 (Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195), which
    gives any one of its draws without those before it: a generator for each of 100,000 clients
    would take seconds.
    """
    z_T = key_T + (number_T.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z_T = (z_T ^ (z_T >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z_T = (z_T ^ (z_T >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    drawn_T: NDArray[np.uint64] = z_T ^ (z_T >> np.uint64(31))
    return drawn_T


def _part(dealt: Partition, of_C: NDArray[np.bool_], of_N: NDArray[np.bool_]) -> Partition:
    """Return some clients with some of their rows."""
    client_N = np.repeat(np.arange(len(of_C)), dealt.counts)
    counts_C = np.bincount(client_N[of_N], minlength=len(of_C))[of_C]
    names = [dealt.clients[i] for i in np.flatnonzero(of_C).tolist()]
    starts = np.concatenate([[0], np.cumsum(counts_C)]).astype(np.int64)
    return replace(dealt, clients=names, order=np.asarray(dealt.order)[of_N], starts=starts)
