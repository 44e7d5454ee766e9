"""The label set: which number each label has, the same for every client and the server.

A label is the value that stands in the data, written as text: 3, 3.0 and "3" are one label, "03" is
another. A number is a label like any other, and never the place of one, unless a key says so.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedllm_app.core.errors import DataError
from fedllm_app.data.loading import Raw
from fedllm_app.data.settings import DataSettings
from fedllm_app.data.source import Source, require_column

if TYPE_CHECKING:
    import pyarrow

MAX_LABELS = 10_000  # more is a column of identifiers, taken for labels by mistake
NONE = "-1"  # how data sets write that a row has no label


@dataclass(frozen=True)
class LabelSet:
    """All labels in the order of their numbers.

    Attributes
    ----------
    values : what stands in the data, as text.
    names : what the saved model calls them; the values, unless the data name them.
    """

    values: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, values: Sequence[str]) -> "LabelSet":
        """Return a set whose values are their own names."""
        return cls(tuple(values), tuple(values))

    @cached_property
    def number(self) -> Mapping[str, int]:
        """Number of each label, by value."""
        return {value: i for i, value in enumerate(self.values)}


@dataclass(frozen=True)
class Labels:
    """A column of labels, each value written as text.

    Attributes
    ----------
    texts : the different values; None is no label.
    codes : int64 of shape (N,), which of `texts` stands in each row.
    numbers : whether the column is one of numbers.
    """

    texts: list[str | None]
    codes: NDArray[np.int64]
    numbers: bool

    def only(self, good_N: NDArray[np.bool_]) -> "Labels":
        """Return the column with no label in the rows that are not good."""
        kept = set(np.unique(self.codes[good_N]).tolist())
        texts = [text if code in kept else None for code, text in enumerate(self.texts)]
        return Labels(texts, self.codes, self.numbers)


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


def read_labels(
    raw: Raw, settings: DataSettings, source: Source, fixed: Sequence[str] | None
) -> Labels:
    """Return the label column of a source.

    Parameters
    ----------
    raw : rows as they are in the source.
    settings : the column, and what a number in it is.
    source : named in error messages.
    fixed : the labels, where they are known already.

    Raises
    ------
    DataError
        If the column is missing, or holds what can be no label; the message names the row.
    """
    import datasets
    from pyarrow import compute, types

    name = settings.label_column
    require_column(raw.rows, "data.label-column", name, source)
    said = f"data.label-column {name!r} of {source}"
    if name in raw.odd:
        raise DataError(f"{said} {raw.odd[name]}; expected numbers, or text, in every row")
    column = raw.rows.select_columns([name]).with_format("arrow")[:].column(name)
    if not _may_hold_labels(column.type):
        raise DataError(
            f"{said} holds values of type {column.type}; expected whole numbers, text, or "
            "true and false"
        )
    if types.is_null(column.type):
        return Labels([None], np.zeros(len(column), np.int64), numbers=False)
    coded = compute.dictionary_encode(column, null_encoding="encode").combine_chunks()
    codes = np.asarray(coded.indices.to_numpy(zero_copy_only=False), np.int64)
    feature = raw.rows.features[name]
    counted = settings.labels.strip().isdigit()
    declared = feature.names if isinstance(feature, datasets.ClassLabel) and not counted else None
    places = list(fixed) if fixed and settings.label_numbers == "positions" else None
    texts = []
    for i, value in enumerate(coded.dictionary.to_pylist()):
        row = int(np.argmax(codes == i))
        try:
            texts.append(_text_of(value, declared, places, fixed))
        except ValueError as error:
            raise DataError(f"{said} holds {value!r} in row {row}; {error}") from None
    return Labels(texts, codes, numbers=types.is_integer(column.type) or _is_float(column.type))


def label_set(labels: Labels, raw: Raw, settings: DataSettings, source: Source) -> LabelSet:
    """Return the labels that the training data have, sorted: numbers as numbers, text as text.

    A data set that declares its classes names them itself; a column `<label>_name` beside numbers
    names them.

    Raises
    ------
    DataError
        If there is one label only, or more than 10,000, or two share a name.
    """
    import datasets

    column = settings.label_column
    feature = raw.rows.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return LabelSet.of(feature.names)
    key: Callable[[str], Any] = int if labels.numbers else str
    values = sorted({text for text in labels.texts if text is not None}, key=key)
    said = f"data.label-column {column!r} of {source}"
    if len(values) < 2:
        raise DataError(
            f"{said} holds the one label {(values[0] if values else None)!r}; expected at least "
            "two, or the whole set in data.labels"
        )
    if len(values) > MAX_LABELS:
        raise DataError(
            f"{said} holds {len(values):,} different values, such as {values[0]!r} and "
            f"{values[-1]!r}; expected at most {MAX_LABELS:,} labels"
        )
    beside = f"{column}_name"
    if not labels.numbers or beside not in raw.rows.column_names:
        return LabelSet.of(values)
    return LabelSet(tuple(values), _named(values, labels, raw, beside, str(source)))


def label_numberer(names: Sequence[str], column: str, source: Source) -> Callable[[Any, int], int]:
    """Return a function from a label and its row, for the message, to the label's number."""
    numbers = {name: i for i, name in enumerate(names)}

    def number(value: Any, row: int) -> int:
        """Return a label's number, 0 to the number of names less one; DataError if it has none."""
        text = _text_of(value, None, None, names)
        if text is None or text not in numbers:
            raise unknown_label(value, row, names, column, source)
        return numbers[text]

    return number


def unknown_label(
    value: object, row: int, names: Sequence[str], column: str, source: Source
) -> DataError:
    """Return the error of a row whose label is none of the set."""
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    whole = isinstance(value, int) or (isinstance(value, str) and value.isdigit())
    places = (
        '. A number is a label of its own; data.label-numbers = "positions" takes it for a place '
        "in data.labels"
    )
    return DataError(
        f"data.label-column {column!r} of {source} holds {value!r} in row {row}; expected one of "
        f"{len(names)} labels ({shown}). data.labels sets them{places if whole else ''}"
    )


def _text_of(
    value: Any,
    declared: Sequence[str] | None,
    places: Sequence[str] | None,
    fixed: Sequence[str] | None,
) -> str | None:
    """Return a value as the text of a label, None for no label; ValueError says what is wrong."""
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if not value.is_integer():
            raise ValueError("a number with a fraction is no label")
        value = int(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    text = str(value)
    if text == NONE and text not in (fixed or ()):
        return None
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if places is not None and (whole or text.isdigit()):
        if not 0 <= int(text) < len(places):
            raise ValueError(f"data.labels has {len(places)} names, at the places from 0")
        return places[int(text)]
    if declared is not None and whole:
        if not 0 <= value < len(declared):
            raise ValueError(f"the data set declares {len(declared)} classes, from 0")
        return str(declared[value])
    return text


def _may_hold_labels(kind: "pyarrow.DataType") -> bool:
    from pyarrow import types

    checks = (types.is_string, types.is_large_string, types.is_integer, types.is_boolean,
              types.is_null, _is_float)  # fmt: skip
    return any(check(kind) for check in checks)


def _is_float(kind: "pyarrow.DataType") -> bool:
    from pyarrow import types

    return bool(types.is_floating(kind))


def _named(
    values: Sequence[str], labels: Labels, raw: Raw, beside: str, said: str
) -> tuple[str, ...]:
    """Return the names of numbers from the column beside them; a number without one is its own."""
    names: dict[str, str] = {}
    column = raw.rows.select_columns([beside])[beside][:]
    for code, name in zip(labels.codes.tolist(), column, strict=True):
        value = labels.texts[code]
        if value is None or name is None or str(name) == names.setdefault(value, str(name)):
            continue
        raise DataError(
            f"column {beside!r} of {said} calls label {value} both {names[value]!r} and "
            f"{name!r}; expected one name for each label, or no such column"
        )
    found = tuple(names.get(value, value) for value in values)
    if len(set(found)) < len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise DataError(
            f"column {beside!r} of {said} calls two labels {twice!r}; expected a name for each"
        )
    return found
