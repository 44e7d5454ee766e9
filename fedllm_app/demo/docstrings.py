"""Documentation strings of the standard library and of installed packages, read but never run.

Sources are found through `importlib.metadata` and `sysconfig` and parsed with `ast`, so nothing is
imported and nothing has side effects. The result is kept as Arrow: the scan happens once.
"""

import ast
import hashlib
import importlib.metadata
import os
import platform
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets

from fedllm_app.core.progress import with_progress
from fedllm_app.data.cache import build_once

STANDARD_LIBRARY = "standard-library"
# Folder in site-packages -> distribution that installs it. Each comes with this project.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "accelerate": "accelerate",
    "datasets": "datasets",
    "flwr": "flwr",
    "fontTools": "fonttools",
    "huggingface_hub": "huggingface-hub",
    "matplotlib": "matplotlib",
    "networkx": "networkx",
    "numpy": "numpy",
    "pandas": "pandas",
    "peft": "peft",
    "prompt_toolkit": "prompt-toolkit",
    "pydantic": "pydantic",
    "rich": "rich",
    "setuptools": "setuptools",
    "sqlalchemy": "sqlalchemy",
    "sympy": "sympy",
    "torch": "torch",
    "transformers": "transformers",
}
SKIPPED_FOLDERS = {
    *("tests", "test", "testing", "_testing", "__pycache__", "site-packages", "dist-packages"),
    *("_vendor", "vendor", "extern", "idlelib", "lib2to3", "distutils", "ensurepip"),
    *("turtledemo", "pydoc_data"),
}
BYTES_PER_PACKAGE = 2_500_000  # of source: parsed in a second, and some hundred texts at least
BYTES_PER_FILE = 400_000  # longer files are generated tables
NOT_PROSE = (">>>", "... ", ":copyright:", ":license:")
MIN_WORDS = 20
FORMAT = 1  # part of the cache key: raise it when one installation would give other texts
COLUMNS = {"package": "string", "module": "string", "text": "string"}


def documentation(cache: Path) -> datasets.Dataset:
    """Return every text found: columns package, module (dotted), text, sorted by the first two.

    Parameters
    ----------
    cache : folder under which the texts are kept. The first call takes some seconds.
    """
    return cached(cache, "documentation", lambda: (_scan(), COLUMNS))


def cached(
    cache: Path, name: str, build: Callable[[], tuple[list[dict[str, Any]], dict[str, str]]]
) -> datasets.Dataset:
    """Return the rows that `build` gives, kept as Arrow for this installation and memory-mapped.

    Parameters
    ----------
    cache : folder for all caches.
    name : of this table.
    build : returns rows and the type of each column.
    """

    def write(folder: Path) -> None:
        rows, columns = build()
        features = datasets.Features({c: datasets.Value(t) for c, t in columns.items()})
        datasets.disable_progress_bars()
        datasets.Dataset.from_list(rows, features=features).save_to_disk(str(folder))
        datasets.enable_progress_bars()

    folder = build_once(cache / "embedded" / installation_digest() / name, write)
    return datasets.load_from_disk(str(folder))


def installation_digest() -> str:
    """Return 16 hexadecimal digits that name the versions whose texts are read."""
    parts = [str(FORMAT), platform.python_version()]
    parts += [f"{d}=={_version(d)}" for d in DISTRIBUTIONS.values()]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()


def submodules(package: str) -> set[str]:
    """Return the names of the modules and packages directly inside a package."""
    found = _folder(package)
    if found is None:
        return set()
    return {p.stem for p in found.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}


def texts_of(source: bytes) -> Iterator[str]:
    """Yield the documentation strings of one source file, white space collapsed.

    A file that does not parse yields nothing. Lines of interactive input and of licence are left
    out: they would name the package in every file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's sources
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    nodes: list[ast.AST] = [tree]
    for node in nodes:  # grows while it is walked; only blocks are entered, for speed
        nodes += [child for child in getattr(node, "body", ()) if hasattr(child, "body")]
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node) or ""
            lines = (line for line in text.splitlines() if not line.lstrip().startswith(NOT_PROSE))
            yield re.sub(r"[-=~*#`_]{3,}", " ", " ".join(" ".join(lines).split()))


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _folder(package: str) -> Path | None:
    if package == STANDARD_LIBRARY:
        return Path(sysconfig.get_paths()["stdlib"])
    try:
        found = importlib.metadata.distribution(DISTRIBUTIONS[package]).locate_file(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(found)) if Path(str(found)).is_dir() else None


def _sources(folder: Path) -> list[tuple[str, Path]]:
    """Return dotted module name and file of an even sample of a package's files."""
    files = []
    for parent, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if name not in SKIPPED_FOLDERS]
        for path in (Path(parent, name) for name in names if name.endswith(".py")):
            parts = path.relative_to(folder).with_suffix("").parts
            size = path.stat().st_size
            if size <= BYTES_PER_FILE and not parts[-1].endswith(("_pb2", "_pb2_grpc")):
                files.append((".".join(p for p in parts if p != "__init__"), path, size))
    # Ordered by a hash of the name, the first megabytes are a sample of the whole package.
    files.sort(key=lambda f: (hashlib.blake2b(f[0].encode()).digest(), f[0]))
    chosen, total = [], 0
    for module, path, size in files:
        if total + size <= BYTES_PER_PACKAGE:
            chosen.append((module, path))
            total += size
    return sorted(chosen)


def _scan() -> list[dict[str, Any]]:
    files: list[tuple[str, str, Path]] = []
    for package in sorted([*DISTRIBUTIONS, STANDARD_LIBRARY]):
        folder = _folder(package)
        prefix = "" if package == STANDARD_LIBRARY else package
        for module, path in _sources(folder) if folder else []:
            files.append((package, ".".join(filter(None, (prefix, module))), path))
    rows, seen = [], set()
    for package, module, path in with_progress(files, "reading documentation strings"):
        for text in texts_of(path.read_bytes()):
            words = text.split()
            # Copies differ in a version number or a name near the end: the opening decides.
            opening = " ".join(words[:MIN_WORDS]).lower()
            if len(words) >= MIN_WORDS and opening not in seen:
                seen.add(opening)
                rows.append({"package": package, "module": module, "text": text})
    return rows
