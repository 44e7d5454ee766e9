"""Values of rows gathered to typed Arrow columns, block by block.

Shapes: N rows of one block.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

    from fedllm_app.data.settings import DataSettings

WHOLE = r"^-?(0|[1-9][0-9]{0,17})$"  # no leading zero: 007 is no number
WHOLE_FLOAT = r"^-?(0|[1-9][0-9]{0,14})(\.0+)?$"  # what a column of numbers with a gap is saved as
FLOAT = r"^-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$"
BOOLEAN = r"^(True|False)$"
KINDS = {str: "text", bool: "true or false", int: "numbers", float: "numbers", list: "lists",
         dict: "objects"}  # fmt: skip


class Columns:
    """The columns of one data set.

    Parameters
    ----------
    settings : names of columns.
    scratch : folder for the blocks.
    cells : whether values are the cells of a table, all of them text.
    """

    def __init__(self, settings: "DataSettings", scratch: Path, cells: bool) -> None:
        self._text, self._label = settings.text_column, settings.label_column
        self._texts = {settings.user_column, f"{settings.label_column}_name"}
        self._scratch, self._cells = scratch, cells
        self._blocks: list[pyarrow.Table] = []
        # For the columns of texts and labels: what kinds of values they hold, and where each began.
        self._kinds: dict[str, dict[str, tuple[int, Any]]] = {self._text: {}, self._label: {}}

    def add(
        self, rows: list[dict[str, Any]], lines: list[int], bad: Callable[[int, str], None]
    ) -> None:
        """Take N rows.

        Parameters
        ----------
        rows : values by column; a column that a row lacks is empty there.
        lines : where each row stands, for messages.
        bad : told of a line whose text is no text; it may raise.
        """
        import pyarrow

        good = rows
        try:
            table = self._arrow(rows, lines)
        except UnicodeEncodeError:  # text that no file can hold, from an escape such as \\ud800
            broken = [not _encodes(row) for row in rows]
            for line, out in zip(lines, broken, strict=True):
                if out:
                    bad(line, "half a character (a lone surrogate)")
            good = [row for row, out in zip(rows, broken, strict=True) if not out]
            lines = [line for line, out in zip(lines, broken, strict=True) if not out]
            table = self._arrow(good, lines)
        if good:
            self._scratch.mkdir(parents=True, exist_ok=True)
            file = self._scratch / f"block-{len(self._blocks)}.arrow"
            with pyarrow.OSFile(str(file), "wb") as out:
                with pyarrow.ipc.new_stream(out, table.schema) as stream:
                    stream.write_table(table)
            with pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))) as stream:
                self._blocks.append(stream.read_all())

    def odd(self) -> dict[str, str]:
        """Return what the columns of texts and labels hold that makes no one type, by column."""
        found = {}
        for name, kinds in self._kinds.items():
            nested = [kind for kind in ("lists", "objects") if kind in kinds]
            if nested:
                line, value = kinds[nested[0]]
                found[name] = f"holds {nested[0]}: {_short(value)} in line {line}"
            elif len(kinds) > 1:
                (one, (line, value)), (two, (other, second)) = list(kinds.items())[:2]
                found[name] = (
                    f"mixes {one} and {two}: {_short(value)} in line {line} and {_short(second)} "
                    f"in line {other}"
                )
            elif name == self._text and kinds.keys() - {"text"}:
                ((kind, (line, value)),) = kinds.items()
                found[name] = f"holds {kind}: {_short(value)} in line {line}"
        return found

    def table(self) -> "pyarrow.Table":
        """Return all rows, the blocks brought to one schema."""
        import pyarrow

        if not self._blocks:
            return pyarrow.table({})
        names = list(dict.fromkeys(n for block in self._blocks for n in block.column_names))
        return pyarrow.table({name: self._column(name) for name in names})

    def _column(self, name: str) -> "pyarrow.ChunkedArray":
        """Return one column of all blocks in one type."""
        import pyarrow

        parts = [
            block.column(name)
            if name in block.column_names
            else pyarrow.chunked_array([pyarrow.nulls(len(block))])
            for block in self._blocks
        ]
        types = {part.type for part in parts} - {pyarrow.null()}
        if len(types) > 1 and types <= {pyarrow.int64(), pyarrow.float64()}:
            types = {pyarrow.float64()}
        elif len(types) > 1:
            parts, types = [_written(part.to_pylist()) for part in parts], {pyarrow.string()}
        kind = types.pop() if types else pyarrow.null()
        chunks = [chunk.cast(kind) for part in parts for chunk in _chunks(part)]
        column = pyarrow.chunked_array(chunks, kind)
        if self._cells and name != self._text and name not in self._texts:
            patterns = (WHOLE, WHOLE_FLOAT) if name == self._label else (WHOLE, FLOAT, BOOLEAN)
            return _as_it_looks(column, patterns)
        return column

    def _arrow(self, rows: list[dict[str, Any]], lines: list[int]) -> "pyarrow.Table":
        import pyarrow

        names = dict.fromkeys(name for row in rows for name in row)
        made = {}
        for name in names:
            values = [row.get(name) for row in rows]
            if self._cells:
                empty = "" if name == self._text else None
                made[name] = pyarrow.array([v or empty for v in values], pyarrow.string())
            else:
                made[name] = self._typed(name, values, lines)
        return pyarrow.table(made)

    def _typed(self, name: str, values: list[Any], lines: list[int]) -> "pyarrow.Array":
        """Return the values of a JSON file as the array of their type, or as text."""
        import pyarrow

        kinds = self._kinds.get(name)
        if kinds is not None:
            for value, line in zip(values, lines, strict=True):
                if value is not None:
                    kinds.setdefault(KINDS[type(value)], (line, value))
        if name in self._texts or (kinds is not None and len(kinds) > 1):
            return _written(values)
        try:
            # Text stays text: pyarrow makes no date of it.
            return pyarrow.array(values)
        except (pyarrow.ArrowException, OverflowError, ValueError, TypeError) as error:
            if isinstance(error, UnicodeEncodeError):
                raise
            return _written(values)


def _written(values: Sequence[Any]) -> "pyarrow.Array":
    """Return values as text: text as it is, anything else as JSON writes it."""
    import pyarrow

    texts = (v if v is None or isinstance(v, str) else _one(v) for v in values)
    return pyarrow.array(list(texts), pyarrow.string())


def _one(value: Any) -> str:
    return str(value) if isinstance(value, bool | int | float) else json.dumps(value, default=str)


def _chunks(part: Any) -> list[Any]:
    return part.chunks if hasattr(part, "chunks") else [part]


def _encodes(row: dict[str, Any]) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:37] + "..."


def _as_it_looks(column: "pyarrow.ChunkedArray", patterns: Sequence[str]) -> Any:
    """Return a column of text as numbers or truth values where every cell is written as one."""
    import pyarrow
    from pyarrow import compute

    if column.null_count == len(column):
        return column
    for pattern in patterns:
        if compute.all(compute.match_substring_regex(column, pattern)).as_py():
            break
    else:
        return column
    if pattern == WHOLE_FLOAT:
        column = compute.replace_substring_regex(column, r"\.0+$", "")
    kinds = {FLOAT: pyarrow.float64(), BOOLEAN: pyarrow.bool_()}
    return column.cast(kinds.get(pattern, pyarrow.int64()))
