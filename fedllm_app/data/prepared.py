"""The data of a run prepared once, in a folder that is named by all that it depends on."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fedllm_app.data.cache import build_once, digest
from fedllm_app.data.labels import LabelSet
from fedllm_app.data.own import own_identity
from fedllm_app.data.settings import DataSettings
from fedllm_app.data.source import Source
from fedllm_app.data.text import tokenizer_identity
from fedllm_app.data.usable import Usable, usable

FORMAT = 6  # part of the cache key: raise it when the same input would be prepared differently
READ = (
    "text_column", "label_column", "image_column", "user_column", "labels", "label_numbers",
    "bad_rows", "delimiter", "encoding", "strip", "documents", "domain_column",
    "instruction_column", "input_column", "response_column",
)  # fmt: skip
NOTES, NAMES = "notes.json", "labels.json"
SHOWN = 24


class Kind(Protocol):
    """What is asked of a kind of task; fedllm_app.tasks has them."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a batch is made of."""

    @property
    def needs_labels(self) -> bool:
        """Whether there is a label set."""

    @property
    def images(self) -> bool:
        """Whether inputs are images."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Settings that name the columns which must be there, such as "text_column"."""

    @property
    def check(self) -> Callable[[Sequence[str], DataSettings, Source], object] | None:
        """Raise DataError if the columns are of no known shape."""

    @property
    def chat(self) -> bool:
        """Whether rows depend on the chat template of the tokenizer."""

    @property
    def prepare(self) -> Callable[..., str | None]:
        """Write the rows of a source as an Arrow file; say what was left out of them."""


class Asked(Protocol):
    """Namespace `task`, as far as data depends on it."""

    @property
    def name(self) -> str:
        """Name of the task."""

    @property
    def max_tokens(self) -> int:
        """Longest row in tokens."""

    @property
    def kind(self) -> Kind:
        """The task itself."""

    def model_dump(self) -> dict[str, Any]:
        """Return all settings by name."""


@dataclass(frozen=True)
class Notes:
    """What was found in the data, for whoever starts a run.

    Attributes
    ----------
    classes : number of training rows of each label, by name; None where devices hold them.
    dropped : what was left out of the training and of the test examples, in words, by "train" and
        "test".
    """

    classes: Mapping[str, int | None] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)

    def lines(self) -> dict[str, str]:
        """Return the lines that a run begins with, by name."""
        made = {}
        if self.classes:
            shown = list(self.classes.items())[:SHOWN]
            counts = ", ".join(n if c is None else f"{n} {c:,}" for n, c in shown)
            more = f", and {len(self.classes) - SHOWN:,} more" if len(self.classes) > SHOWN else ""
            made["classes"] = f"{len(self.classes):,}: {counts}{more}"
        if self.dropped:
            made["left out"] = ". ".join(f"{name}: {said}" for name, said in self.dropped.items())
        return made


@dataclass(frozen=True)
class Prepared:
    """A folder of prepared data.

    Attributes
    ----------
    folder : holds train.arrow, test.arrow where there are such.
    labels : their names in order, [] without.
    notes : what was found.
    """

    folder: Path
    labels: list[str]
    notes: Notes


def prepared(
    data: DataSettings,
    task: Asked,
    tokenizer: Any,
    cache: Path,
    train: Source | None,
    test: Source | None,
    labels: Sequence[str] | None = None,
) -> Prepared:
    """Return the folder of prepared data, building it if need be.

    Labels that are not given come from `data.labels`, else from train, else from test.

    Raises
    ------
    DataError
        If a source is not as the settings say.
    """
    kind = task.kind
    key = digest(
        FORMAT,
        *identity_of(data, task, train, test),
        labels,
        "" if kind.images else tokenizer_identity(tokenizer),
        *([tokenizer.chat_template] if kind.chat else []),
    )

    def build(folder: Path) -> None:
        """Write train.arrow, test.arrow, labels.json and notes.json."""
        scratch = folder / "raw"
        known = LabelSet.of(labels) if labels else None
        notes: dict[str, dict[str, Any]] = {"classes": {}, "dropped": {}}
        for source, name in ((train, "train"), (test, "test")):
            found = _read(data, task, source, name, known, scratch, cache)
            if found is None or source is None:
                continue
            known = found.labels
            names = None if known is None else list(known.names)
            left = kind.prepare(
                found.rows, source, data, tokenizer, task.max_tokens, names,
                folder / f"{name}.arrow",
            )  # fmt: skip
            _note(notes, name, found, left or "")
        (folder / NAMES).write_text(json.dumps([] if known is None else known.names))
        (folder / NOTES).write_text(json.dumps(notes))
        shutil.rmtree(scratch, ignore_errors=True)

    folder = build_once(cache / "data" / key, build)
    notes = Notes(**json.loads((folder / NOTES).read_text()))
    return Prepared(folder, json.loads((folder / NAMES).read_text()), notes)


def identity_of(
    data: DataSettings, task: Asked, train: Source | None, test: Source | None
) -> list[Any]:
    """Return what the usable rows depend on; what is made of them hangs on the tokenizer too."""
    return [
        *([] if source is None else source.identity() for source in (train, test)),
        task.model_dump(),
        data.model_dump(include=set(READ)),
        *own_identity(task.name),
    ]


def _read(
    data: DataSettings,
    task: Asked,
    source: Source | None,
    name: str,
    known: LabelSet | None,
    scratch: Path,
    cache: Path,
) -> Usable | None:
    """Return the usable rows of a source, None where there is none."""
    raw = None if source is None else source.load(task.name, scratch / name, cache)
    if source is None or raw is None:
        return None
    return usable(raw, source, data, task.kind, known, test=name == "test")


def _note(notes: dict[str, dict[str, Any]], name: str, found: Usable, left: str) -> None:
    if found.labels is not None and name == "train":
        counts = zip(found.labels.names, found.counts.tolist(), strict=True)
        notes["classes"] = dict(counts)
    if said := [str(found.dropped)] * bool(found.dropped.total) + [left] * bool(left):
        notes["dropped"][name] = "; ".join(said)
