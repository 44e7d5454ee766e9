"""Rows from files, saved folders and the hub, each by the reader that knows most of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_app.core.errors import DataError, first_line
from fedllm_app.data.dropped import Dropped
from fedllm_app.data.formats import PARQUET, suffix_of
from fedllm_app.data.reading import read_files

if TYPE_CHECKING:
    from datasets import Dataset

    from fedllm_app.data.settings import DataSettings

FOLDER = "folder"  # the column that says which folder a row is from, where there are several
SAVED = "state.json"  # what save_to_disk writes last into the folder of one data set


@dataclass(frozen=True)
class Raw:
    """The rows of a source as they are.

    Attributes
    ----------
    rows : of all columns.
    odd : columns of texts or labels without one type, and what they mix.
    dropped : what was left out of a file because it cannot be read.
    """

    rows: "Dataset"
    odd: dict[str, str] = field(default_factory=dict)
    dropped: Dropped = field(default_factory=Dropped)


def read(files: Sequence[Path], said: str, settings: "DataSettings", scratch: Path) -> Raw:
    """Return the rows of files of one kind, or of one saved folder.

    Parameters
    ----------
    files : absolute paths; of a saved folder its state.json.
    said : the setting that named them, for error messages.
    settings : how files of text are read.
    scratch : folder for intermediate files, needed as long as the result is.

    Raises
    ------
    DataError
        If a file is damaged; it names the file, and the line where there are lines.
    """
    import datasets

    if files[0].name == SAVED:
        return Raw(datasets.load_from_disk(str(files[0].parent)))
    if suffix_of(files[0]).lower() == PARQUET:
        full = [str(file) for file in files if _rows_of(file, said)]
        empty: dict[str, list[str]] = {}
        if not full:
            return Raw(datasets.Dataset.from_dict(empty))
        return Raw(datasets.Dataset.from_parquet(full, cache_dir=str(scratch)))
    found = read_files(files, said, settings, scratch)
    rows = datasets.Dataset(datasets.table.InMemoryTable(found.table), fingerprint="text-files")
    return Raw(rows, found.odd, found.dropped)


def read_folders(files: Sequence[Path], said: str, settings: "DataSettings", scratch: Path) -> Raw:
    """Return the rows of files in several folders, with the folder's name in a column "folder".

    A column of this name that is there already is left as it is. Parameters and errors as `read`.
    """
    import datasets

    parts, odd, dropped = list["Dataset"](), dict[str, str](), Dropped()
    for number, (folder, own) in enumerate(groupby(files, key=lambda file: file.parent)):
        raw = read(list(own), said, settings, scratch / str(number))
        rows = raw.rows
        if FOLDER not in rows.column_names and len(rows):
            names = [folder.name] * len(rows)
            rows = rows.add_column(FOLDER, names, new_fingerprint=f"{rows._fingerprint}-{number}")
        parts += [rows] if len(rows) else []
        odd |= raw.odd
        dropped.join(raw.dropped)
    if not parts:
        return Raw(datasets.Dataset.from_list([]), odd, dropped)
    return Raw(datasets.concatenate_datasets(parts), odd, dropped)


def from_hub(name: str, config: str, split: str, optional: bool) -> Raw | None:
    """Return a split of a data set of the hub, or None if it is optional and there is none."""
    import datasets

    try:
        return Raw(datasets.load_dataset(name, config or None, split=split, cache_dir=None))
    except ValueError as error:
        if optional and "split" in str(error).lower():
            return None
        raise


def cause_of(error: BaseException) -> str:
    """Return what began a chain of errors: readers wrap it in others that say less."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {first_line(error)}"


def _rows_of(file: Path, said: str) -> int:
    """Return the number of rows of a parquet file; DataError if it is none."""
    import pyarrow
    from pyarrow import parquet

    try:
        return int(parquet.ParquetFile(file).metadata.num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{said}: {file} is no whole .parquet file: {first_line(error)}; write it again"
        ) from error
