"""Rows of .csv, .tsv, .jsonl and .json files as Arrow, with the line of whatever is wrong.

Text stays as it is written: in a table "007", "NA" and "null" are text, and no text becomes a date.
The columns that the settings name have types of their own: text and users are text; a label of a
table is a number where each of its cells is a whole number. Other columns are typed as they look.

Rows are collected by blocks, each written to disk as it is full, so that a file needs no more
memory than one of them.
"""

import csv
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fedllm_app.core.errors import DataError
from fedllm_app.data.columns import Columns
from fedllm_app.data.dropped import Dropped
from fedllm_app.data.formats import (
    TORN,
    delimiter_of,
    is_table_of_text,
    open_text,
    suffix_of,
    unreadable,
)

if TYPE_CHECKING:
    import pyarrow

    from fedllm_app.data.settings import DataSettings

ROWS, CHARACTERS = 20_000, 1 << 26  # of a block
Line = tuple[int, dict[str, Any]]  # where a row ends in its file, counted from 1, and its values


@dataclass
class Read:
    """What was read.

    Attributes
    ----------
    table : the rows.
    odd : columns that have no one type, with what they mix; they hold text now.
    dropped : lines that were left out.
    """

    table: "pyarrow.Table"
    odd: dict[str, str] = field(default_factory=dict)
    dropped: Dropped = field(default_factory=Dropped)


def read_files(files: Sequence[Path], said: str, settings: "DataSettings", scratch: Path) -> Read:
    """Return the rows of several files of text, one after the other.

    Parameters
    ----------
    files : of one kind.
    said : the setting that named them, for error messages.
    settings : columns, delimiter, encoding, and what to do with a line that cannot be read.
    scratch : folder for the blocks, needed as long as the table is.

    Raises
    ------
    DataError
        If a file cannot be unpacked or decoded, has no header, or has a line that cannot be read
        and data.bad-rows is "refuse"; it names the file and the line.
    """
    columns, dropped = Columns(settings, scratch, is_table_of_text(files[0])), Dropped()
    for path in files:
        reader = _File(path, said, settings, dropped)
        try:
            for block in _blocks(reader.rows()):
                columns.add([row for _, row in block], [line for line, _ in block], reader.bad)
        except (UnicodeError, *TORN) as error:
            raise unreadable(path, said, error, settings.encoding) from error
    return Read(columns.table(), columns.odd(), dropped)


class _File:
    """One file on its way to rows."""

    def __init__(self, path: Path, said: str, settings: "DataSettings", dropped: Dropped) -> None:
        self.path, self.said, self.settings, self.dropped = path, said, settings, dropped

    def bad(self, line: int, cause: str, detail: str = "") -> None:
        """Count a line that cannot be used, or refuse it."""
        if self.settings.bad_rows == "drop":
            self.dropped.add(cause, [line], "line")
            return
        raise DataError(
            f"{self.said}: line {line} of {self.path} has {cause}{detail and f' ({detail})'}; mend "
            'or remove it, or set data.bad-rows = "drop"'
        )

    def rows(self) -> Iterator[Line]:
        """Yield the rows of the file."""
        with open_text(self.path, self.settings.encoding) as file:
            yield from self._cells(file) if is_table_of_text(self.path) else self._objects(file)

    def _cells(self, file: IO[str]) -> Iterator[Line]:
        csv.field_size_limit(sys.maxsize if sys.maxsize < 2**31 else 2**31 - 1)
        delimiter = delimiter_of(self.path, self.settings.delimiter)
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        names: list[str] = []
        last = 0
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                if "unexpected end" in str(error):
                    raise DataError(
                        f"{self.said}: a quote that opens in line {last + 1} of {self.path} is "
                        "never closed; close it, or set data.delimiter if the file has another"
                    ) from error
                self.bad(reader.line_num, "a quote where none may stand", str(error))
                last = reader.line_num
                continue
            last = reader.line_num
            if cells is None:
                return
            if not cells:
                continue
            if not names:
                names = self._header(cells)
            elif len(cells) != len(names):
                detail = f"it has {len(cells)} and the header {len(names)}"
                self.bad(last, "another number of cells", detail)
            else:
                yield last, dict(zip(names, cells, strict=True))

    def _header(self, cells: list[str]) -> list[str]:
        names = [name or f"Unnamed: {i}" for i, name in enumerate(cells)]
        if len(names) == 1 and (other := next((c for c in ";\t|," if c in names[0]), "")):
            word = "tab" if other == "\t" else other
            raise DataError(
                f"{self.said}: {self.path} has one column, {names[0]!r}; if it is several, set "
                f'data.delimiter = "{word}"'
            )
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(
                f"{self.said}: {self.path} has two columns named {twice[0]!r}; expected one of "
                "each name in its first line"
            )
        return names

    def _objects(self, file: IO[str]) -> Iterator[Line]:
        """Yield the rows of one object a line, or of a file that is one list or one object."""
        lines = enumerate(file, 1)
        number, first = next((pair for pair in lines if pair[1].strip()), (1, ""))
        # A .json file may be one value over many lines; of a .jsonl file each line stands alone.
        spread = suffix_of(self.path).lower().removesuffix(".gz").removesuffix(".zst") == ".json"
        if first.lstrip().startswith("[") or (spread and not _is_json(first)):
            yield from self._whole("\n" * (number - 1) + first + file.read())
            return
        for place, line in itertools.chain([(number, first)], lines):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                self.bad(place, "torn JSON", _plain(error))
                continue
            if isinstance(row, dict):
                yield place, row
            else:
                self.bad(place, "no object of names and values", repr(row)[:40])

    def _whole(self, text: str) -> Iterator[Line]:
        """Yield the rows of a file that is one list of rows, or one object of columns."""
        try:
            found = json.loads(text)
        except ValueError as error:
            raise DataError(
                f"{self.said}: line {getattr(error, 'lineno', 1)} of {self.path} is not JSON "
                f"({_plain(error)}); mend it, or write one object a line"
            ) from error
        if isinstance(found, dict):
            columns = {n: list(v.values()) if isinstance(v, dict) else v for n, v in found.items()}
            if not all(isinstance(v, list) for v in columns.values()) or (
                len({len(v) for v in columns.values()}) > 1
            ):
                raise DataError(
                    f"{self.said}: {self.path} is one object, and not of columns of one length; "
                    "expected a list of rows, or one object a line"
                )
            values = zip(*columns.values(), strict=True)
            found = [dict(zip(columns, row, strict=True)) for row in values]
        for number, row in enumerate(found, 1):
            if isinstance(row, dict | str):
                yield number, {"text": row} if isinstance(row, str) else row
            else:
                self.bad(number, "no object of names and values", repr(row)[:40])


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _plain(error: ValueError) -> str:
    """Return what is wrong with JSON, and at which character of its line."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.colno}"
    return str(error)


def _blocks(rows: Iterable[Line]) -> Iterator[list[Line]]:
    """Yield lists of rows, each full where it has many rows or many characters."""
    block: list[Line] = []
    characters = 0
    for line, row in rows:
        block.append((line, row))
        characters += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(block) >= ROWS or characters >= CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block
