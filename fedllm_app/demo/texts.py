"""The default data: which package does this documentation come from, with its name masked.

Real text that every installation has, so that the first run needs no download. As next-token text
one module is one user. It is a demonstration for simulation only: two installations hold different
versions of the packages and so different texts.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets

from fedllm_app.core.errors import DataError
from fedllm_app.demo.docstrings import (
    MIN_WORDS,
    STANDARD_LIBRARY,
    cached,
    documentation,
    installation_digest,
    submodules,
)
from fedllm_app.tasks import task_of
from fedllm_app.tasks.classify import SEQUENCE_CLASSIFICATION
from fedllm_app.tasks.next_token import NEXT_TOKEN

MASK = "___"
# Other names a package goes by in its own documentation.
ALIASES: dict[str, tuple[str, ...]] = {
    "PIL": ("pillow",),
    "datasets": ("dataset", "ds"),
    "flwr": ("flower", "superlink", "supernode"),
    "fontTools": ("ttx",),
    "huggingface_hub": ("hugging", "huggingface", "hf"),
    "matplotlib": ("mpl", "plt", "pyplot", "pylab"),
    "networkx": ("nx",),
    "numpy": ("np",),
    "pandas": ("pd",),
    "prompt_toolkit": ("prompt-toolkit", "ptk"),
    "setuptools": ("pkg_resources",),
    "sqlalchemy": ("sa",),
    "torch": ("pytorch", "caffe2"),
    "transformers": ("transformer", "huggingface", "hf"),
}
TEXTS_PER_CLASS = 320
TEXTS_PER_MODULE = 24  # in one class, so that no class is one long file
USERS_PER_PACKAGE = 10
FEWEST_PER_USER = 5  # texts of a module that becomes a next-token user
COMMON_IN = 4  # a submodule's name that so many other packages use is a word like any other
WORDS_KEPT = 150
Rows = list[dict[str, Any]]
Choose = Callable[[Rows], list[int]]  # which rows the task takes
Write = Callable[[Rows, list[int]], Rows]  # as what text
COLUMNS = {"text": "string", "label": "int64", "label_name": "string", "user": "string"}


def embedded_texts(task_name: str, cache: Path) -> datasets.Dataset:
    """Return the embedded texts of a task, the same rows in the same order on every call.

    Parameters
    ----------
    task_name : with labels (masked, balanced, a row per documentation string), or without (as
        written).
    cache : folder under which the texts are kept. The first call takes some seconds.

    Returns
    -------
    Columns text, label (int), label_name (the package) and user (the module).

    Raises
    ------
    DataError
        If the task has no embedded text, or fewer than two packages have sources to read.
    """
    name, choose, write = _task(task_name)

    def build() -> tuple[list[dict[str, Any]], dict[str, str]]:
        rows = documentation(cache).to_list()
        return _labelled(write(rows, choose(rows))), COLUMNS

    return cached(cache, name, build)


def unused_texts(task_name: str, cache: Path) -> list[str]:
    """Return the documentation strings that are no rows of the task: what a backbone may see.

    Raises
    ------
    DataError
        If the task has no embedded text.
    """
    _, choose, _ = _task(task_name)
    rows = documentation(cache).to_list()
    chosen = set(choose(rows))
    return [row["text"] for i, row in enumerate(rows) if i not in chosen]


def mask_names(text: str, names: Iterable[str], anywhere: Iterable[str]) -> str:
    """Return the text with a package's names replaced by a mask, case ignored.

    Parameters
    ----------
    text : any text.
    names : masked as whole words, together with the dotted path that follows: with "np",
        `np.linalg.norm` becomes one mask.
    anywhere : masked in longer words too: with "torch", `TorchScript`.
    """
    whole, part = (sorted({re.escape(n) for n in ns}) for ns in (names, anywhere))
    patterns = [rf"(?<![A-Za-z0-9_])(?:{'|'.join(whole)})(?![A-Za-z0-9_])"] if whole else []
    patterns += [rf"\w*(?:{'|'.join(part)})\w*"] if part else []
    if not patterns:
        return text
    masked = re.sub(rf"(?:{'|'.join(patterns)})(?:\.\w+)*", MASK, text, flags=re.IGNORECASE)
    return re.sub(rf"{MASK}(?:[\s.,/]*{MASK})+", MASK, masked)


def own_names(package: str, vocabulary: Mapping[str, set[str]]) -> tuple[set[str], set[str]]:
    """Return the names of a package to mask as words, and those to mask anywhere.

    Submodule names count unless at least `COMMON_IN` other packages use the word too.

    Parameters
    ----------
    package : key of the vocabulary.
    vocabulary : the lower-case words of each package's texts.
    """
    names = {
        name
        for name in (n.lower().strip("_") for n in submodules(package))
        if len(name) > 1
        and sum(name in words for other, words in vocabulary.items() if other != package)
        < COMMON_IN
    }
    if package == STANDARD_LIBRARY:
        return names, set()
    own = {package.lower(), *ALIASES.get(package, ())}
    return names | own, {n for n in own if len(n) >= 4}


def _task(task_name: str) -> tuple[str, Choose, Write]:
    """Return the name of a task's texts, which are chosen, and how they are written."""
    tasks: dict[str, tuple[Choose, Write]] = {
        SEQUENCE_CLASSIFICATION.name: (_balanced, _masked),
        NEXT_TOKEN.name: (_whole_modules, _as_written),
    }
    name = task_of(task_name).embedded
    if name not in tasks:
        raise DataError(
            f"data.train is 'embedded' and task.name is {task_name!r}; embedded text exists for "
            f"{', '.join(tasks)}. Set data.train to a dataset for this task."
        )
    return (name, *tasks[name])


def _balanced(rows: Rows) -> list[int]:
    per_class: Counter[str] = Counter()
    per_module: Counter[tuple[str, str]] = Counter()
    chosen = []
    for i in sorted(range(len(rows)), key=lambda i: _shuffled(rows[i])):
        package, module = rows[i]["package"], rows[i]["module"]
        full = per_class[package] == TEXTS_PER_CLASS
        if not full and per_module[package, module] < TEXTS_PER_MODULE:
            per_class[package] += 1
            per_module[package, module] += 1
            chosen.append(i)
    return chosen


def _masked(rows: Rows, chosen: list[int]) -> Rows:
    vocabulary: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        vocabulary[row["package"]].update(re.findall(r"\w+", row["text"].lower()))
    names_of = {package: own_names(package, vocabulary) for package in vocabulary}
    written = []
    for row in (rows[i] for i in chosen):
        names, anywhere = names_of[row["package"]]
        if row["package"] == STANDARD_LIBRARY:  # each module there is a package of its own
            names = names | set(row["module"].lower().split("."))
        words = mask_names(row["text"], names, anywhere).split()
        if len(words) >= MIN_WORDS:
            written.append({**row, "text": " ".join(words[:WORDS_KEPT])})
    return written


def _whole_modules(rows: Rows) -> list[int]:
    modules: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        modules[row["package"], row["module"]].append(i)
    users: Counter[str] = Counter()
    chosen: list[int] = []
    for (package, _), texts in sorted(modules.items(), key=lambda m: _shuffled(rows[m[1][0]])):
        if len(texts) >= FEWEST_PER_USER and users[package] < USERS_PER_PACKAGE:
            users[package] += 1
            chosen += texts
    return chosen


def _as_written(rows: Rows, chosen: list[int]) -> Rows:
    return [rows[i] for i in chosen]


def _shuffled(row: Mapping[str, Any]) -> bytes:
    """Return a sort key that mixes rows the same way on every machine."""
    return hashlib.blake2b(f"{row['module']}\n{row['text']}".encode(), digest_size=16).digest()


def _labelled(rows: Rows) -> Rows:
    names = sorted({row["package"] for row in rows})
    if len(names) < 2:
        raise DataError(
            f"embedded texts come from {names!r}; expected sources of at least two packages. "
            "This installation has no .py files: set data.train to a dataset of your own."
        )
    return [
        {
            "text": row["text"],
            "label": names.index(row["package"]),
            "label_name": row["package"],
            "user": row["module"],
        }
        for row in sorted(rows, key=_shuffled)
    ]


class _Texts:
    """The embedded texts as a source of data sees them."""

    def identity(self) -> list[str]:
        """Return what tells the texts of one installation from those of another."""
        return [installation_digest()]

    def rows(self, task: str, cache: Path) -> datasets.Dataset:
        """Return the rows of a task."""
        return embedded_texts(task, cache)


TEXTS = _Texts()
