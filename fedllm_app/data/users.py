"""What is measured client by client: examples that a client does not train on, and unseen clients.

Both are drawn from the data alone, not from the run's seed, as every held-out set here: runs that
differ in their seed are measured on the same clients and examples, where the partition is the same.

Shapes: N rows, C clients, T pairs of a client and a text of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedllm_app.core.errors import DataError
from fedllm_app.core.seeds import generator
from fedllm_app.data.partition import Partition, PartitionSettings, partition
from fedllm_app.data.settings import DataSettings
from fedllm_app.data.table import Rows, Table

SEEN, UNSEEN = "seen", "unseen"  # clients that may train, and those that never do
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

    def chosen(self, most: int) -> list[tuple[str, Rows]]:
        """Return clients with examples and their rows: at most so many, always the same."""
        having = np.flatnonzero(self.partition.counts)
        if len(having) > most:
            drawn = generator("measured clients").choice(len(having), most, replace=False)
            having = having[np.sort(drawn)]
        return [(self.partition.clients[i], self.partition.rows(i)) for i in having.tolist()]


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
        away_C[generator("unseen clients").permutation(having)[:number]] = True
    held_N = _held_out(client_N, text_of_row[dealt.order], C, data.client_holdout)
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
    client_N: NDArray[np.int64], text_N: NDArray[np.int64], C: int, share: float
) -> NDArray[np.bool_]:
    """Say of each row, client by client, whether its client does not train on it."""
    if not share or not len(text_N):
        return np.zeros(len(text_N), bool)
    width = int(text_N.max()) + 1
    pairs_T, pair_N = np.unique(client_N * width + text_N, return_inverse=True)
    client_T = pairs_T // width
    texts_C = np.bincount(client_T, minlength=C)
    # Pairs are in the order of their clients: where one stands among those of its own is its drawn
    # place less that of the first.
    drawn_T = np.lexsort((generator("held-out of clients").random(len(pairs_T)), client_T))
    place_T = np.empty(len(pairs_T), np.int64)
    place_T[drawn_T] = np.arange(len(pairs_T))
    first_C = np.cumsum(texts_C) - texts_C
    most_C = np.clip(np.rint(share * texts_C), 1, None)
    most_C = np.minimum(most_C, np.maximum(texts_C - 1, 0))
    held_T: NDArray[np.bool_] = place_T - first_C[client_T] < most_C[client_T]
    return held_T[pair_N]


def _part(dealt: Partition, of_C: NDArray[np.bool_], of_N: NDArray[np.bool_]) -> Partition:
    """Return some clients with some of their rows."""
    client_N = np.repeat(np.arange(len(of_C)), dealt.counts)
    counts_C = np.bincount(client_N[of_N], minlength=len(of_C))[of_C]
    names = [dealt.clients[i] for i in np.flatnonzero(of_C).tolist()]
    starts = np.concatenate([[0], np.cumsum(counts_C)]).astype(np.int64)
    return replace(dealt, clients=names, order=np.asarray(dealt.order)[of_N], starts=starts)
