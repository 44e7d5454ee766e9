"""Figures of single clients from a CSV: what a key says of all, a file says better of some."""

import csv
import math
from collections.abc import Collection, Sequence
from pathlib import Path

from fedllm_app.core.errors import ConfigError

MISTAKES_SHOWN = 10


def read_figures(
    key: str, path: Path, columns: Sequence[str], from_zero: Collection[str] = ()
) -> dict[str, dict[str, float]]:
    """Return the figures of single clients from a CSV: by client, and by column with underscores.

    The first line names the columns: client, and at least one of those there are. An empty cell is
    left out.

    Parameters
    ----------
    key : that names the file, as in "network.file".
    columns : there are beside "client", each like the key whose place its figures take.
    from_zero : columns that may hold a zero.

    Raises
    ------
    ConfigError
        If the file cannot be read, or with one line per mistake, the first ten.
    """
    found: dict[str, dict[str, float]] = {}
    mistakes: list[str] = []
    named = f"{key} {str(path)!r}"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            names = [name.strip() for name in next(rows, [])]
            known = [name for name in ("client", *columns) if name in names]
            if sorted(known) != sorted(names) or "client" not in names or len(names) < 2:
                raise ConfigError(
                    f"{named} has columns {names}; expected client and any of {', '.join(columns)}"
                )
            for cells in filter(None, rows):
                try:
                    client, figures = _line(names, cells, key, from_zero)
                    if client in found:
                        raise ValueError(f"client {client!r} is there twice; expected one line")
                    found[client] = figures
                except ValueError as error:
                    mistakes.append(f"{named} line {rows.line_num}: {error}")
    except (OSError, UnicodeError, csv.Error) as error:
        raise ConfigError(f"{named} cannot be read ({error}); expected a CSV") from None
    if mistakes:
        more = len(mistakes) - MISTAKES_SHOWN
        last = [f"{named}: {more} more mistakes"] if more > 0 else []
        raise ConfigError("\n".join(mistakes[:MISTAKES_SHOWN] + last))
    return found


def _line(
    names: list[str], cells: list[str], key: str, from_zero: Collection[str]
) -> tuple[str, dict[str, float]]:
    """Return client and figures of one line, or raise ValueError."""
    if len(cells) != len(names):
        raise ValueError(f"{len(cells)} cells; expected {len(names)}: {', '.join(names)}")
    row = dict(zip(names, (cell.strip() for cell in cells), strict=True))
    client, figures = row.pop("client"), {}
    if not client:
        raise ValueError("client is ''; expected a name")
    for name, text in row.items():
        if not text:
            continue
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        least = "0 or more" if name in from_zero else "above 0"
        if not math.isfinite(value) or value < 0 or (value == 0 and name not in from_zero):
            stands = f"{key.partition('.')[0]}.{name}"
            raise ValueError(
                f"{name} is {text!r}; expected a number, {least}, or nothing for {stands}"
            )
        figures[name.replace("-", "_")] = value
    return client, figures
