"""What can be known of data and model without training, checked before anything is started.

What has been found good is noted in the cache under the digest of all that was looked at, so that
only the first run on some data and some model pays for the look.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from fedllm_app.core.errors import FedllmError
from fedllm_app.core.units import format_bytes
from fedllm_app.data.cache import build_once, digest
from fedllm_app.data.labels import fixed_labels
from fedllm_app.data.own import is_own
from fedllm_app.data.partition import BY_LABEL, BY_USER, TO_CLIENTS
from fedllm_app.data.places import source_of_test, source_of_train
from fedllm_app.data.prepared import identity_of
from fedllm_app.data.settings import NODE, TEXTS
from fedllm_app.data.source import Source
from fedllm_app.models.scratch import shape_of
from fedllm_app.models.settings import BACKBONES, TRAIN

if TYPE_CHECKING:
    from fedllm_app.config import RunConfig

FOUND = "found.json"
# Vectors of four bytes a parameter that a simulation holds, whatever its method: the server its
# parameters, initial values and a sum of eight bytes; a worker on a CPU start, model and gradient.
SERVER_VECTORS, WORKER_VECTORS = 4, 3


def input_problems(c: "RunConfig") -> list[str]:
    """Return what is wrong with the data and the model that a legal configuration names.

    The demonstration's own text and backbone, and functions of your own, are left to the run.

    Parameters
    ----------
    c : a configuration that `RunConfig.parse` has passed.
    """
    cache = Path(c.run.home or Path.home() / ".fedllm") / "cache"
    return [*_of_memory(c), *_of_data(c, cache), *_of_model(c, cache)]


def _of_memory(c: "RunConfig") -> Iterator[str]:
    """Yield that a model from scratch is larger than this machine can simulate."""
    shape = shape_of(c.model.source)
    if shape is None or c.data.train == NODE:
        return
    P, total = shape.parameters(0), psutil.virtual_memory().total  # without words: at least
    vectors = SERVER_VECTORS + WORKER_VECTORS
    if 4 * P * vectors > total:
        import torch

        if c.model.device != "cpu" and torch.cuda.is_available():
            vectors = SERVER_VECTORS
    if (least := 4 * P * vectors) > total:
        yield (
            f"model.source is {c.model.source!r}: a simulation holds at least "
            f"{format_bytes(least)}, and this machine has {format_bytes(total)}; expected a "
            "smaller model, or real devices (data.train = 'node')"
        )


def _of_data(c: "RunConfig", cache: Path) -> Iterator[str]:
    """Yield what is wrong with the examples, and between them and the partition."""
    sources, problems = _sources(c)
    yield from problems
    if problems or sources == [None, None]:
        return
    found: dict[str, Any] = {}

    def look(folder: Path) -> None:
        """Note what was found; raise where something is wrong, so that nothing is kept."""
        found.update(_look(c, sources, folder, cache, problems))
        if problems:
            raise _WrongError
        (folder / FOUND).write_text(json.dumps(found))

    try:
        key = digest("data", *identity_of(c.data, c.task, *sources))
        folder = build_once(cache / "checked" / key, look)
        found = json.loads((folder / FOUND).read_text())
    except _WrongError:
        yield from problems
    else:
        if sources[0] is not None:
            yield from _of_partition(c, found)


def _sources(c: "RunConfig") -> tuple[list[Source | None], list[str]]:
    """Return the training and the test examples that can be looked at, and what is not there."""
    found: list[Source | None] = []
    problems: list[str] = []
    for name, where in (("train", source_of_train), ("test", source_of_test)):
        try:
            source = None if name == "train" and c.data.train == NODE else where(c.data)
            if source is not None and (source.place in TEXTS or is_own(source.place)):
                source = None
            if source is not None:
                source.identity()
        except FedllmError as error:
            problems += [line for line in str(error).splitlines() if line not in problems]
            continue
        found.append(source)
    # Test examples are held to the labels of the training examples.
    unknown = c.task.kind.needs_labels and not c.data.labels
    return ([None, None] if unknown and found[:1] == [None] else found), problems


class _WrongError(Exception):
    """Something is wrong, and noted already."""


def _look(
    c: "RunConfig", sources: list[Source | None], folder: Path, cache: Path, problems: list[str]
) -> dict[str, Any]:
    """Return what the training examples have; add what is wrong with any examples."""
    import datasets

    from fedllm_app.data.usable import usable

    datasets.disable_progress_bars()  # the run shows its own
    found: dict[str, Any] = {}
    labels = None
    for source, name in zip(sources, ("train", "test"), strict=True):
        if source is None:
            continue
        try:
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                raw = source.load(c.task.name, Path(scratch), cache)
                if raw is None:
                    continue
                made = usable(raw, source, c.data, c.task.kind, labels, name == "test")
        except FedllmError as error:
            problems += [line for line in str(error).splitlines() if line not in problems]
            if name == "train" and c.task.kind.needs_labels and not c.data.labels:
                break  # without its labels there is nothing to hold the test examples to
            continue
        if name == "train":
            labels = made.labels
            found = {"rows": len(made.rows), "columns": made.rows.column_names}
    return found


def _of_partition(c: "RunConfig", found: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong between the training examples and how they are dealt out."""
    columns, law = found["columns"], c.partition.name
    if law in BY_USER and c.data.user_column not in columns:
        yield (
            f"partition.name is {law!r} and data.user-column {c.data.user_column!r}; the "
            f"training examples have the columns {columns}"
        )
    named = c.data.domain_column
    if law in BY_LABEL and (c.partition.by or "domain") == "domain" and named not in columns:
        if c.partition.by or not c.task.kind.needs_labels:
            yield (
                f"partition.name is {law!r} and data.domain-column {named!r}; the training "
                f"examples have the columns {columns}"
            )
    if law in TO_CLIENTS and c.task.kind.needs_labels and c.partition.clients > found["rows"]:
        yield (
            f"partition.clients is {c.partition.clients}, but there are {found['rows']} training "
            "examples; expected at most one client per example"
        )


def _of_model(c: "RunConfig", cache: Path) -> Iterator[str]:
    """Yield what is wrong with the model: its files, its sense, its layers and its tokenizer."""
    source = c.model.source
    if source in BACKBONES or (c.model.scratch and c.model.tokenizer == TRAIN):
        return
    place = Path(source)
    if place.is_absolute() and not place.exists():  # said without a look into transformers
        yield f"model.source is {source!r}: there is no such file or folder"
        return
    try:
        key = digest(
            "model", c.model.model_dump(), c.lora.model_dump(), c.task.model_dump(),
            c.data.labels,
            *(_files(Path(p)) for p in (source, c.model.tokenizer) if Path(p).is_absolute()),
        )  # fmt: skip
        build_once(cache / "checked" / key, _loads(c, cache))
    except FedllmError as error:
        yield from str(error).splitlines()


def _files(place: Path) -> list[str | int]:
    """Return what tells the files of a model from others without reading them."""
    files = sorted(place.iterdir()) if place.is_dir() else [place] if place.exists() else []
    return [part for f in files for part in (str(f), f.stat().st_size, f.stat().st_mtime_ns)]


def _loads(c: "RunConfig", cache: Path) -> Callable[[Path], None]:
    """Return a function that raises ConfigError if the model cannot be trained as asked."""

    def look(folder: Path) -> None:
        """Look; the folder is left empty. No weights are read."""
        from fedllm_app.data.instructions import check_template
        from fedllm_app.models.backbone import load_tokenizer
        from fedllm_app.models.preflight import check_model

        source = c.model.source
        if source.endswith(".gguf") and Path(source).is_file():
            return  # the run converts it, which may take long
        kind = c.task.kind
        if kind.chat:
            check_template(load_tokenizer(c.model, source, cache))
        labels = (fixed_labels(c.data) or ["0", "1"]) if kind.needs_labels else []
        tokenizer = partial(load_tokenizer, c.model, source, cache)
        if c.model.scratch:  # the run builds it for this tokenizer
            tokenizer()
            return
        check_model(
            c.model, c.lora, source, c.task.name, labels, c.task.max_tokens, cache,
            None if kind.images or c.model.tokenizer == TRAIN else tokenizer,
            c.task.answer_tokens,
        )  # fmt: skip

    return look
