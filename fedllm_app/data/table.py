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

    def arrays(self, rows: Rows) -> dict[str, NDArray[Any]]:
        """Return the columns of some rows as arrays, without a Python object for any value.

        A column of lists of one length is of shape (B, T); one of other lists is of shape (S, 2),
        for each value the row among these, and the value.
        """
        found = rows if self._rows is None else self._rows[rows]
        batch_B = np.searchsorted(self._ends, found, "right")
        first_B = np.concatenate([[0], self._ends])[batch_B]
        return {
            name: self._array(number, batch_B, found - first_B)
            for number, name in enumerate(self.column_names)
        }

    def _array(self, number: int, batch_B: Rows, row_B: Rows) -> NDArray[Any]:
        import pyarrow

        parts = []
        for place, (b, row) in enumerate(zip(batch_B, row_B, strict=True)):
            column = self._batches[b][number]
            if pyarrow.types.is_fixed_size_list(column.type):
                T = column.type.list_size
                parts.append(np.from_dlpack(column.values)[None, row * T : (row + 1) * T])
            elif pyarrow.types.is_list(column.type):
                begin, end = np.from_dlpack(column.offsets)[row : row + 2]
                values = np.from_dlpack(column.values)[begin:end].astype(np.int64)
                parts.append(np.stack([np.full_like(values, place), values], axis=1))
            else:
                parts.append(np.from_dlpack(column)[row : row + 1])
        return np.concatenate(parts)

    def column(self, name: str) -> "pyarrow.ChunkedArray":
        """Return a column of the whole table, whether it is seen or not."""
        return self._data.column(name)

    def numbers(self, name: str) -> NDArray[Any]:
        """Return a column of whole numbers; of one of lists, their lengths."""
        import pyarrow

        column = self.column(name)
        # Neither `to_numpy`, which imports pandas even for integers, nor pyarrow.compute: 40 MB.
        if pyarrow.types.is_fixed_size_list(column.type):
            return np.full(len(column), column.type.list_size)
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

    def longest(self, count: int) -> Rows:
        """Return so many rows, those with most tokens first; the first ones where none has any.

        Where there are fewer rows, they come again.
        """
        order = np.arange(len(self))
        if "input_ids" in self.column_names:
            own = self.numbers("input_ids")
            order = np.argsort(-(own if self._rows is None else own[self._rows]), kind="stable")
        return np.resize(order, count)
