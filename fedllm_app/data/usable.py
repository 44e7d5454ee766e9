"""The rows that can be used: their labels by name, those without a label or a text left out.

Shapes: N rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedllm_app.core.errors import DataError
from fedllm_app.data.dropped import Dropped
from fedllm_app.data.labels import (
    NONE,
    Labels,
    LabelSet,
    fixed_labels,
    label_set,
    read_labels,
    unknown_label,
)
from fedllm_app.data.loading import Raw
from fedllm_app.data.settings import DataSettings
from fedllm_app.data.source import Source, require_column

if TYPE_CHECKING:
    from datasets import Dataset


class Kind(Protocol):
    """What is asked of a kind of task here."""

    @property
    def needs_labels(self) -> bool:
        """Whether there is a label set."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Settings that name the columns which must be there, such as "text_column"."""

    @property
    def check(self) -> Callable[[Sequence[str], DataSettings, Source], object] | None:
        """Raise DataError if the columns are of no known shape."""


@dataclass(frozen=True)
class Usable:
    """The rows of a source that can be used.

    Attributes
    ----------
    rows : their label column, where the task needs one, holds names of the label set.
    labels : None where the task needs none.
    counts : number of rows of each label, int64; empty where the task needs none.
    dropped : what was left out.
    """

    rows: "Dataset"
    labels: LabelSet | None
    counts: NDArray[np.int64]
    dropped: Dropped


def usable(
    raw: Raw,
    source: Source,
    settings: DataSettings,
    kind: Kind,
    labels: LabelSet | None,
    test: bool = False,
) -> Usable:
    """Return the rows of a source that can be used, and count the others.

    Parameters
    ----------
    raw : rows as they are in the source.
    source : named in error messages.
    settings : columns, and what to do with a row that cannot be used.
    kind : of the task.
    labels : of the run; None takes those of data.labels, or else of these rows.
    test : whether these are test examples.

    Raises
    ------
    DataError
        If a column is missing or of another type, a label is none of the set, or a row cannot be
        used and data.bad-rows is "refuse".
    """
    problems = [p for key in kind.reads if (p := _missing(raw, key, settings, source))]
    if problems:
        raise DataError("\n".join(problems))
    if kind.check is not None:
        kind.check(raw.rows.column_names, settings, source)
    bad_N, dropped = np.zeros(len(raw.rows), bool), raw.dropped.copy()
    for key in kind.reads:
        cause, empty_N = _empty(raw, key, settings, source, kind.needs_labels)
        dropped.add(cause, np.flatnonzero(empty_N & ~bad_N).tolist())
        bad_N |= empty_N
    rows, numbers_N = raw.rows, np.zeros(0, np.int64)
    if kind.needs_labels:
        labels, numbers_N = _labelled(raw, source, settings, labels, test, ~bad_N)
        dropped.add("no label", np.flatnonzero((numbers_N < 0) & ~bad_N).tolist())
        bad_N |= numbers_N < 0
    if bad_N.any() and settings.bad_rows == "refuse":
        raise DataError(_refused(source, dropped, int(bad_N.sum()), len(rows)))
    if bad_N.all():
        raise DataError(f"{source} holds no row that can be used: {dropped}")
    if labels is not None:
        rows = _with_names(rows, settings.label_column, labels, numbers_N)
    if bad_N.any():
        rows, numbers_N = rows.select(np.flatnonzero(~bad_N)), numbers_N[~bad_N]
    size = len(labels.names) if labels is not None else 0
    counts = np.bincount(numbers_N, minlength=size)[:size].astype(np.int64)
    return Usable(rows, labels, counts, dropped)


def _labelled(
    raw: Raw,
    source: Source,
    settings: DataSettings,
    labels: LabelSet | None,
    test: bool,
    good_N: NDArray[np.bool_],
) -> tuple[LabelSet, NDArray[np.int64]]:
    """Return the label set, and the number of each row's label, int64 of shape (N,), -1 for none.

    `good_N` are the rows that count: a label that stands in no other is no class.
    """
    if labels is None and (fixed := fixed_labels(settings)):
        labels = LabelSet.of(fixed)
    found = read_labels(raw, settings, source, labels.values if labels else None)
    if test and all(text is None for text in found.texts):
        raise DataError(_hidden(source, settings))
    found = found.only(good_N)
    if labels is None and any(text is not None for text in found.texts):
        labels = label_set(found, raw, settings, source)
    labels = labels or LabelSet((), ())
    return labels, _numbers(found, labels, settings, source)


def _missing(raw: Raw, key: str, settings: DataSettings, source: Source) -> str:
    """Return what is wrong with a column that must be there, "" if nothing is."""
    column = getattr(settings, key)
    try:
        require_column(raw.rows, f"data.{key.replace('_', '-')}", column, source)
    except DataError as error:
        return str(error)
    if key == "text_column" and column in raw.odd:
        return (
            f"data.text-column {column!r} of {source} {raw.odd[column]}; expected text in every row"
        )
    return ""


def _empty(
    raw: Raw, key: str, settings: DataSettings, source: Source, labelled: bool
) -> tuple[str, NDArray[np.bool_]]:
    """Return a cause and the rows whose text or image is missing, bool of shape (N,).

    A text without labels may be blank: corpora hold empty lines by design.
    """
    import pyarrow
    from pyarrow import compute

    name = getattr(settings, key)
    none = np.zeros(len(raw.rows), bool)
    if key not in ("text_column", "image_column"):
        return "", none
    cause = "no text" if key == "text_column" else "no image"
    column = raw.rows.select_columns([name]).with_format("arrow")[:].column(name)
    types = pyarrow.types
    if types.is_struct(column.type):  # an image is its bytes, or the path of its file
        empty = [np.asarray(compute.is_null(part)) for part in column.flatten()]
        return cause, np.logical_and.reduce(empty)
    missing = compute.is_null(column)
    if key == "text_column":
        if types.is_null(column.type):
            return cause, ~none
        if not (types.is_string(column.type) or types.is_large_string(column.type)):
            raise DataError(
                f"data.text-column {name!r} of {source} holds values of type {column.type}; "
                "expected text"
            )
        if labelled:
            blank = compute.equal(compute.utf8_trim_whitespace(column), "")
            missing = compute.or_(missing, compute.fill_null(blank, False))
    return cause, np.asarray(missing.to_numpy(), bool)


def _numbers(
    found: Labels, labels: LabelSet, settings: DataSettings, source: Source
) -> NDArray[np.int64]:
    """Return the number of each row's label, int64 of shape (N,); -1 where there is none."""
    numbers = []
    for code, text in enumerate(found.texts):
        if text is not None and text not in labels.number:
            row = int(np.argmax(found.codes == code))
            value = int(text) if found.numbers else text
            raise unknown_label(value, row, labels.values, settings.label_column, source)
        numbers.append(-1 if text is None else labels.number[text])
    return np.asarray(numbers, np.int64)[found.codes]


def _with_names(
    rows: "Dataset", column: str, labels: LabelSet, numbers_N: NDArray[np.int64]
) -> "Dataset":
    """Return the rows with the names of their labels in the place of the values."""
    import datasets

    names: Sequence[Any] = [*labels.names, None]
    made = [names[number] for number in numbers_N.tolist()]
    kept = rows.remove_columns([column])
    text = datasets.Value("string")
    return kept.add_column(column, made, new_fingerprint=f"{rows._fingerprint}-named", feature=text)


def _refused(source: Source, dropped: Dropped, bad: int, rows: int) -> str:
    return (
        f"{source}: {bad:,} of {rows:,} rows cannot be used: {dropped}; rows count from 0, and a "
        f"label {NONE} means none unless data.labels names it. Mend or remove these rows, or set "
        'data.bad-rows = "drop"'
    )


def _hidden(source: Source, settings: DataSettings) -> str:
    other = "data.test" if source.key == "data.test" else "data.test-split or data.test"
    return (
        f"{source} has hidden labels: data.label-column {settings.label_column!r} is empty or "
        f"{NONE} in every row; expected test examples with labels, which {other} names"
    )
