"""Names in a run-config that stand for a module: yours as MODULE:NAME, ours by a table entry."""

import hashlib
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.extend import load

OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_own(value: str) -> bool:
    """Return whether a value is MODULE:NAME; neither a hub name nor an absolute path is."""
    return OWN.fullmatch(value) is not None


def own_identity(value: str) -> list[str]:
    """Return MODULE:NAME and a hash of the module's source file; [] of what is built in.

    What is prepared with it is prepared again when the file changes, but not when another that it
    imports does.
    """
    if not is_own(value):
        return []
    file = _source_file(value)
    source = Path(file).read_bytes() if file else b""
    return [value, hashlib.blake2b(source, digest_size=16).hexdigest()]


def is_there(entry: str) -> bool:
    """Return whether the module of a table entry "MODULE:NAME" is installed."""
    return _source_file(entry) is not None


def built_in(key: str, value: str, entry: str) -> Any:
    """Return what a table entry "MODULE:NAME" names; it is imported now.

    Parameters
    ----------
    key, value : the setting that asks for it.

    Raises
    ------
    ConfigError
        If it is not installed.
    """
    try:
        return load(key, entry, object, ())
    except ConfigError as error:
        raise ConfigError(f"{key} is {value!r}, and {error}") from None


def _source_file(entry: str) -> str | None:
    try:
        found = find_spec(entry.partition(":")[0])
    except (ImportError, ValueError):  # a parent is missing, or it is the main program
        return None
    return found.origin if found is not None and found.has_location else None
