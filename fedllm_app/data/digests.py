"""Digests of prepared data: what a run that goes on compares with what it began on.

Over the values, not over the file that holds them: data that are prepared anew from the same source
have the same digest.
"""

import hashlib
from typing import TYPE_CHECKING

from fedllm_app.data.cache import digest

if TYPE_CHECKING:
    from fedllm_app.data.federated import FederatedData
    from fedllm_app.data.table import Table

BLOCK = 4096  # rows that are held at once


def data_digests(data: "FederatedData") -> dict[str, str]:
    """Return 32 hexadecimal digits each for train, evaluation, labels and partition."""
    dealt = hashlib.blake2b(digest(data.clients).encode(), digest_size=16)
    for rows in (data.partition.starts, data.partition.order):
        dealt.update(rows.tobytes())
    return {
        "train": table_digest(data.train),
        "evaluation": table_digest(data.evaluation),
        "labels": digest(data.labels),
        "partition": dealt.hexdigest(),
    }


def table_digest(table: "Table") -> str:
    """Return 32 hexadecimal digits over the columns that are seen, all of their rows.

    Which of the rows are seen, and in which order, follows from the settings.
    """
    import pyarrow

    found = hashlib.blake2b(str(len(table)).encode(), digest_size=16)
    for name in table.column_names:
        column = table.column(name)
        found.update(f"|{name}|{column.type}|{len(column)}".encode())
        for start in range(0, len(column), BLOCK):
            block = pyarrow.chunked_array(column.slice(start, BLOCK).chunks, column.type)
            rows = pyarrow.Table.from_arrays([block], names=[name]).combine_chunks()
            for batch in rows.to_batches():
                found.update(batch.serialize())
    return found.hexdigest()
