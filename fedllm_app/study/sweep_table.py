"""The runs of a sweep in one table and on one page: <home>/sweeps/NAME/.

The table names every run, so whoever has the folder finds the runs beside it, in <home>/runs.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from fedllm_app.config import RunConfig
from fedllm_app.config.unread import unread_keys
from fedllm_app.core.errors import ConfigError, FedllmError
from fedllm_app.report.page import write_comparison
from fedllm_app.report.run import Run, read_run
from fedllm_app.study.finished_runs import TABLE
from fedllm_app.study.search import Sweep
from fedllm_app.study.sweep import Cell, finished

COSTS = ("up-bytes", "down-bytes", "simulated-s", "flops", "compute-s", "energy-j")
MOST_COMPARED = 12  # runs of the page, the best


def falling(asked: Sweep) -> bool:
    """Say whether the headline of a sweep's runs is better when it is lower."""
    every = asked.around() if asked.search == "bayes" else iter(asked.cells())
    for cell in every:
        try:
            kind = RunConfig.parse(cell.settings).task.kind
        except ConfigError:  # what else varies may mend it
            continue
        return kind.headline in kind.falling
    return False


def write_table(
    asked: Sweep, cells: Sequence[Cell], failed: Mapping[str, str], home: Path, out: Path
) -> list[Run]:
    """Write table.parquet, table.csv and report.html; return the runs that are finished.

    A row for each of these, the best first: the keys that vary, the last value of each metric, and
    what the run cost. Below them those that failed, with the reason.

    Parameters
    ----------
    cells : a run that is there twice, as a search may propose it, is shown once.
    failed : why, by the name of the cell.
    """
    cells = [*{cell.name: cell for cell in cells}.values()]
    good = [cell for cell in cells if cell.name not in failed and _is_whole(cell, home)]
    found = [(cell, read_run(home / "runs" / cell.name)) for cell in good]
    falls = falling(asked)
    found.sort(key=lambda pair: _rank(pair[1], falls))
    rows = [_row(asked, cell) | _measured(run) for cell, run in found]
    rows += [
        _row(asked, cell) | {"failed": "; ".join(failed[cell.name].splitlines())}
        for cell in cells
        if cell.name in failed
    ]
    if rows:
        names = list(dict.fromkeys(name for row in rows for name in row))
        table = pa.table({name: [row.get(name) for row in rows] for name in names})
        out.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, out / TABLE)
        pc.write_csv(table, out / "table.csv")
    if found:
        best = [run.folder for _, run in found[:MOST_COMPARED]]
        write_comparison(best, out / "report.html", unread=unread_keys)
    return [run for _, run in found]


def _is_whole(cell: Cell, home: Path) -> bool:
    """Say whether a run was played to its end; not one of a stopped sweep that nobody looked at."""
    try:
        return finished(cell, home)
    except FedllmError:
        return False


def _rank(run: Run, falls: bool) -> float:
    """Return what sorts the best run first, and one whose headline is no number last."""
    value = run.final(run.headline)
    if value is None:
        return math.inf
    return value if falls else -value


def _row(asked: Sweep, cell: Cell) -> dict[str, Any]:
    return {"run": cell.name} | {key: cell.settings.get(key) for key in asked.vary}


def _measured(run: Run) -> dict[str, Any]:
    last, evaluated = run.metrics[-1], [r for r in run.metrics if r.get("evaluation")]
    found = dict(evaluated[-1]["evaluation"]) if evaluated else {}
    return found | {key: last.get(key) for key in COSTS} | {"seconds": run.seconds}
