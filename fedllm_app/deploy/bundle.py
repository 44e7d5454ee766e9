"""What of a checkout travels to the devices, and what stays though Flower alone would ship it.

Flower packs every .json, .jsonl, .md, .yaml and .toml file that it finds. `fab-include` of
pyproject.toml is the list of what may travel; here it is applied as Flower applies it.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedllm_app.core.settings import Scalar
from fedllm_app.core.units import format_bytes, listed
from fedllm_app.data.own import is_own

# What Flower ships by itself, folders that it passes over, and those that it ships nothing of.
SHIPPED = re.compile(r".*\.(py|toml|md|yaml|yml|json|jsonl)")
PASSED_OVER = {".venv", ".flwr", "__pycache__", ".git"}
SKIPPED = {"venv", "env", "build", "lib"}  # beside pyproject.toml
# Parts of this checkout that are no part of the app, and nobody's secret.
OURS = ("docs", "tests", "benchmarks", "recipes", "README.md", "pyproject-federation.toml")
NAMED = 3
DEEPEST = 10  # folders; a file below more stops Flower, bundled or not


def kept_back(app: Path) -> str:
    """Return one sentence on the files that stay here though Flower would ship them, "" if none.

    Parameters
    ----------
    app : folder of the app's pyproject.toml.
    """
    include = _patterns(app)
    if include is None:
        return ""
    files = [
        (name, size)
        for name, size in _candidates(app, SKIPPED)
        if name.split("/")[0] not in OURS and not include.match_file(name)
    ]
    files = [f for f in files if f[0] != "pyproject.toml"]
    if not files:
        return ""
    files.sort(key=lambda file: (-file[1], file[0]))
    named = listed([name for name, _ in files], NAMED)
    return (
        f"Not sent to devices, though Flower would send them: {named} "
        f"({format_bytes(sum(size for _, size in files))}). The app's own code alone travels "
        "(fab-include in pyproject.toml)."
    )


def unshipped_modules(app: Path, config: Mapping[str, Scalar]) -> Iterator[str]:
    """Yield one sentence for each key that names a module here which does not travel.

    Parameters
    ----------
    app : folder of the app's pyproject.toml.
    config : flat, by dotted key.
    """
    include = _patterns(app)
    for key, value in config.items():
        if include is None or not (isinstance(value, str) and is_own(value)):
            continue
        path = value.partition(":")[0].replace(".", "/")
        names = [n for n in (f"{path}.py", f"{path}/__init__.py") if (app / n).is_file()]
        if names and not include.match_file(names[0]):
            yield (
                f"{key} is {value!r}, and {names[0]} does not travel with the app; expected a file "
                f'beside server_app.py, or "/{path.split("/")[0]}/**/*.py" in fab-include of '
                "pyproject.toml"
            )


def too_deep(app: Path) -> Iterator[str]:
    """Yield a sentence if a file lies so deep that Flower refuses the whole checkout for it."""
    for name, _ in _candidates(app, set()):
        if len(Path(name).parts) - 1 > DEEPEST:
            yield (
                f"{name} lies more than {DEEPEST} folders deep, and Flower bundles no checkout "
                "that holds such a file; move it, or name its folder in .gitignore"
            )
            return


def _patterns(app: Path) -> Any:
    """Return what matches the files that may travel; None if there is no list."""
    from pathspec import PathSpec

    table = tomllib.loads((app / "pyproject.toml").read_text("utf-8"))
    patterns = table.get("tool", {}).get("flwr", {}).get("app", {}).get("fab-include")
    return PathSpec.from_lines("gitignore", patterns) if patterns else None


def _candidates(app: Path, skipped: set[str]) -> Iterator[tuple[str, int]]:
    """Yield the files, with their bytes, that Flower takes without a list; ignored ones not."""
    from pathspec import PathSpec

    ignore = app / ".gitignore"
    lines = ignore.read_text("utf-8").splitlines() if ignore.is_file() else []
    ignored = PathSpec.from_lines("gitignore", lines)
    for folder, folders, names in os.walk(app):
        here = Path(folder)
        top = here == app
        folders[:] = [f for f in folders if f not in PASSED_OVER and not (top and f in skipped)]
        for name in names:
            file = here / name
            inside = file.relative_to(app).as_posix()
            if SHIPPED.fullmatch(name) and not file.is_symlink() and not ignored.match_file(inside):
                yield inside, file.stat().st_size
