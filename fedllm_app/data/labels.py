"""The label set: which number each label has, the same for every client and the server."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedllm_app.core.errors import DataError
from fedllm_app.data.source import DataSettings, Source, require_column

if TYPE_CHECKING:
    from datasets import Dataset

MAX_LABELS = 10_000  # more is a column of identifiers, taken for labels by mistake


def fixed_labels(settings: DataSettings) -> list[str] | None:
    """Return the label names that `data.labels` gives, or None if it leaves them to the data.

    Raises
    ------
    DataError
        If a count is not between 2 and 10,000, or names are repeated or empty.
    """
    text = settings.labels.strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        if not 2 <= int(text) <= MAX_LABELS:
            raise DataError(f"data.labels is {text!r}; expected a count from 2 to {MAX_LABELS}")
        return [str(i) for i in range(int(text))]
    names = [name.strip() for name in text.split(",")]
    if len(names) < 2 or len(set(names)) < len(names) or "" in names:
        raise DataError(
            f"data.labels is {text!r}; expected a count, or two or more different names "
            "with commas between"
        )
    return names


def label_names(settings: DataSettings, raw: "Dataset", source: Source) -> list[str]:
    """Return the name of each label, in the order of their numbers.

    Whole-number labels 0..n-1 keep their number; a column `<label>_name` beside them names them.
    Text labels are numbered in sorted order. `data.labels` overrules both.

    Raises
    ------
    DataError
        If the column is missing, holds neither whole numbers nor text, or no usable label set.
    """
    fixed = fixed_labels(settings)
    if fixed is not None:
        return fixed
    column = settings.label_column
    require_column(raw, "data.label-column", column, source)
    declared = getattr(raw.features[column], "names", None)
    if declared:
        return list(declared)
    found = raw.unique(column)
    if all(isinstance(v, str) for v in found):
        names = sorted(found)
    elif all(isinstance(v, int) and v >= 0 for v in found):
        if max(found) >= MAX_LABELS:
            raise DataError(
                f"data.label-column {column!r} of {source} holds {max(found)}; expected labels "
                f"0..n-1 with n at most {MAX_LABELS}"
            )
        names = _named(raw, column, max(int(v) for v in found) + 1)
    else:
        odd = next(v for v in found if not (isinstance(v, str) or (isinstance(v, int) and v >= 0)))
        raise DataError(
            f"data.label-column {column!r} of {source} holds {odd!r}; expected whole numbers "
            "0..n-1 or text in every row"
        )
    if len(names) < 2:
        raise DataError(
            f"data.label-column {column!r} of {source} holds the one label {found[0]!r}; expected "
            "at least two, or the whole set in data.labels"
        )
    return names


def label_numberer(names: Sequence[str], column: str, source: Source) -> Callable[[Any, int], int]:
    """Return a function from a label and its row, for the message, to the label's number."""
    numbers = {name: i for i, name in enumerate(names)}

    def number(value: Any, row: int) -> int:
        """Return a label's number, 0 to the number of names less one; DataError if it has none."""
        if isinstance(value, str):
            found = numbers.get(value, -1)
        else:
            found = int(value) if isinstance(value, int | np.integer) else -1
        if not 0 <= found < len(names):
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            raise DataError(
                f"data.label-column {column!r} of {source} holds {value!r} in row {row}; expected "
                f"one of {len(names)} labels ({shown}) or their numbers 0 to {len(names) - 1}. "
                "data.labels sets them"
            )
        return found

    return number


def _named(raw: "Dataset", column: str, count: int) -> list[str]:
    """Return names from the column `<label>_name` where it is there, else the numbers."""
    names = [str(i) for i in range(count)]
    beside = f"{column}_name"
    if beside in raw.column_names:
        labels, first = np.unique(np.asarray(raw[column][:]), return_index=True)
        for label, name in zip(labels.tolist(), raw.select(first)[beside][:], strict=True):
            names[label] = str(name)
    return names
