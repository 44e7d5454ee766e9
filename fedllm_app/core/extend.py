"""Parts of your own by "MODULE:NAME", and what a device allows of them.

A run-config may name a module. A server, a simulation and a test import what they are told; a
device imports only what its own node-config allows, and refuses before it imports.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fedllm_app.core.errors import ConfigError

_allowed: frozenset[str] | None = None  # None: every module


def allow(modules: Iterable[str] | None) -> None:
    """Set the modules that this process may import for a run-config; None is all."""
    global _allowed
    _allowed = None if modules is None else frozenset(modules)


def load(key: str, value: str, kind: Any, known: Iterable[str] | Mapping[str, Any]) -> Any:
    """Return what a name stands for in a table, or the object that "MODULE:NAME" names.

    Parameters
    ----------
    key, value : the setting.
    kind : a type that the object must be of, or a function that says whether it will do.
    known : a table of what the legal names beside MODULE:NAME stand for, or the names alone.

    Raises
    ------
    ConfigError
        If there is none, it cannot be imported, is of another kind, or is not allowed here.
    """
    if isinstance(known, Mapping) and value in known:
        return known[value]
    module, colon, name = value.partition(":")
    legal = f"expected one of {', '.join(sorted(known))}, or MODULE:NAME of your own"
    if not (module and colon and name):
        raise ConfigError(f"{key} is {value!r}; {legal}")
    top = module.partition(".")[0]
    # Ours too: what a run may choose of it is in `known`, and the rest was made for other uses.
    if _allowed is not None and not {module, top} & _allowed:
        raise ConfigError(
            f"{key} is {value!r}; this device does not import {module!r}. Its node-config may "
            f'allow it: allow-modules="{module}"'
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever a module of somebody's raises
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{key} is {value!r}, which cannot be imported: {why}") from None
    check: Callable[[Any], bool] = kind
    if not (isinstance(found, kind) if isinstance(kind, type) else check(found)):
        raise ConfigError(f"{key} is {value!r}, which is a {type(found).__name__}; {legal}")
    return found
