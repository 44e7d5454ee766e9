"""Prepared rows, read from a memory-mapped Arrow file.

What `datasets` has written is opened here with pyarrow alone: a worker has no use for the rest of
`datasets`, whose import (with pandas) would cost every process 70 MB and over a second.

Shapes: N rows.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow

Rows = NDArray[np.int64]


class Table:
    """Some rows and columns of an Arrow table, in an order of their own.

    Parameters
    ----------
    data : the whole table.
    columns : names of the columns that are seen; None is all.
    rows : the rows that are seen, int64 of shape (N,); None is all.
    """

    def __init__(
        self, data: "pyarrow.Table", columns: Sequence[str] | None = None, rows: Rows | None = None
    ) -> None:
        names = data.column_names
        self.column_names = list(names if columns is None else columns)
        self._data, self._rows = data, rows
        self._batches = data.select(self.column_names).to_batches()
        self._ends = np.cumsum([len(batch) for batch in self._batches])

    @classmethod
    def open(cls, file: Path) -> "Table":
        """Map a file that `datasets` has written."""
        import pyarrow

        with pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))) as stream:
            return cls(stream.read_all())

    @classmethod
    def empty(cls) -> "Table":
        """Return a table without columns or rows."""
        import pyarrow

        return cls(pyarrow.table({}))

    def __len__(self) -> int:
        return self._data.num_rows if self._rows is None else len(self._rows)

    def __getitem__(self, rows: Sequence[int]) -> dict[str, list[Any]]:
        """Return the values of some rows by column."""
        chosen = np.asarray(rows, dtype=np.int64)
        found = chosen if self._rows is None else self._rows[chosen]
        # Row by row from the batch that holds it: a `take` would copy whole columns first.
        parts = [
            self._batches[b].slice(int(row - (self._ends[b - 1] if b else 0)), 1)
            for b, row in zip(np.searchsorted(self._ends, found, "right"), found, strict=True)
        ]
        return {
            name: [value for part in parts for value in part[number].to_pylist()]
            for number, name in enumerate(self.column_names)
        }

    def column(self, name: str) -> "pyarrow.ChunkedArray":
        """Return a column of the whole table, whether it is seen or not."""
        return self._data.column(name)

    def numbers(self, name: str) -> NDArray[Any]:
        """Return a column of whole numbers; of one of lists, their lengths."""
        import pyarrow

        column = self.column(name)
        # Neither `to_numpy`, which imports pandas even for integers, nor pyarrow.compute: 40 MB.
        if pyarrow.types.is_list(column.type):
            parts = [np.diff(np.from_dlpack(chunk.offsets)) for chunk in column.chunks]
        else:
            parts = [np.from_dlpack(chunk) for chunk in column.chunks]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def select(self, rows: Rows) -> "Table":
        """Return the table with these of its rows, in this order."""
        found = rows if self._rows is None else self._rows[rows]
        return Table(self._data, self.column_names, found)

    def select_columns(self, names: Sequence[str]) -> "Table":
        """Return the table with these of its columns."""
        return Table(self._data, names, self._rows)
