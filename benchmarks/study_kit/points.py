"""Rows by point, and how a point stands in a table."""

from collections.abc import Iterable
from statistics import fmean, stdev

from benchmarks.study_kit.claims import Points
from benchmarks.study_kit.entry import Row


def by_point(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows of each point, a row for each seed, without trials."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if not row["run"].startswith("trial-"):
            found.setdefault(row["run"].rpartition("-s")[0], []).append(row)
    return found


def perplexity(points: Points, name: str) -> str:
    """Return the perplexity of a point with its spread over seeds, "" where there is none."""
    values = [row["perplexity"] for row in points.get(name, ())]
    spread = f" ± {stdev(values):.1f} ({len(values)} seeds)" if len(values) > 1 else ""
    return f"{fmean(values):.1f}{spread}" if values else ""


def number(value: float | None) -> str:
    """Return a perplexity, "" where there is none."""
    return "" if value is None else f"{value:.1f}"
