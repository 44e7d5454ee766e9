"""The settings of runs as tables: all of one, and those in which several differ."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedllm_app.core.units import DASH
from fedllm_app.report.drawing import Series
from fedllm_app.report.run import Run
from fedllm_app.report.tables import Cell, Row, Table

# Which keys a run of these settings does not read; what knows it stands to the right of here.
Unread = Callable[[Mapping[str, Any]], frozenset[str]]


def settings_table(runs: Sequence[Run], looks: Sequence[Series], unread: Unread) -> Table:
    """Return the settings in which runs differ, one line per run, a dash where it reads none."""
    keys = differing(runs, unread)
    rows = [
        Row([Cell(look.label), *(Cell(_shown(run, key, unread)) for key in keys)], look.colour)
        for run, look in zip(runs, looks, strict=True)
    ]
    note = (
        "A dash: the run does not read this key."
        if any(cell.text == DASH for row in rows for cell in row.cells[1:])
        else ""
    )
    note = note if keys else "None: the runs have the same settings."
    head = ["Run", *keys]
    return Table("Settings that differ", head, rows if keys else [], note, "runs differ", False)


def differing(runs: Sequence[Run], unread: Unread) -> list[str]:
    """Return keys that not all runs share, without the run's name and what no run reads of them.

    Parameters
    ----------
    unread : returns the keys that a run of these settings does not read.
    """
    keys = sorted({key for run in runs for key in run.settings} - {"run.name", "run.home"})
    ignored = [unread(run.settings) for run in runs]
    found = []
    for key in keys:
        values = [repr(run.settings.get(key)) for run in runs]
        read = {v for v, names in zip(values, ignored, strict=True) if key not in names}
        if len(read) > 1 or (read and len(set(values)) > 1):
            found.append(key)
    return found


def grouped(settings: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Return settings by namespace, in the order of the file."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for key, value in settings.items():
        namespace, _, name = key.rpartition(".")
        groups.setdefault(namespace or "run", []).append((name, _setting(value)))
    return groups


def _shown(run: Run, key: str, unread: Unread) -> str:
    return DASH if key in unread(run.settings) else _setting(run.settings.get(key))


def _setting(value: object) -> str:
    if value is None:
        return DASH
    if isinstance(value, bool):
        return str(value).lower()
    return '""' if value == "" else str(value)
