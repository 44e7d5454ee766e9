"""`fedllm sweep`: play the runs of a file, and put what they reached and cost into one table.

fedllm sweep sweep.toml --workers 2

It may be stopped at any moment; started again it goes on. <home>/sweeps/NAME/ holds table.parquet,
table.csv and report.html, written anew after every stretch.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fedllm_app.report.run import Run
    from fedllm_app.study.crew import Crew
    from fedllm_app.study.search import Sweep
    from fedllm_app.study.sweep import Cell

COSTS = ("up-bytes", "down-bytes", "simulated-s", "flops", "compute-s", "energy-j")
MOST_COMPARED = 12  # runs of the page, the best


def sweep(
    file: Annotated[Path, typer.Argument(help="The sweep (TOML).")],
    workers: Annotated[int, typer.Option(min=1, help="Runs at a time, a process each.")] = 2,
    home: Annotated[Path, typer.Option(help="Folder for runs and caches.")] = Path("~/.fedllm"),
    ray: Annotated[
        str,
        typer.Option(
            help="Play on a Ray cluster: its host:port, or 'local' to start one here. --home is a "
            "folder that all its machines share."
        ),
    ] = "",
) -> None:
    """Play a grid, a random or a Bayesian search over any keys, and compare what came of it."""
    from fedllm_app.study.search import read_sweep
    from fedllm_app.study.sweep import SweepError, play

    asked, place = read_sweep(file), home.expanduser().resolve()
    out, failed = place / "sweeps" / file.stem, ""
    if asked.search == "bayes":
        cells = _play_bayes(asked, place, workers, _crew(ray, workers))
    else:
        cells = asked.cells()
        try:
            play(cells, place, workers, crew=_crew(ray, workers))
        except SweepError as error:
            failed = str(error)
    runs = write_table(asked, cells, place, out)
    typer.echo(f"{len(runs)} runs in {out / 'table.csv'}, table.parquet and report.html")
    if failed:
        raise SweepError(failed)


def _crew(ray: str, workers: int) -> "Callable[[], AbstractContextManager[Crew]]":
    """Return where runs are played: processes of this machine, or a Ray cluster."""
    if not ray:
        from fedllm_app.study.crew import processes

        return processes
    from fedllm_app.study.on_ray import on_ray

    return partial(on_ray, ray, workers)


def _play_bayes(
    asked: "Sweep", home: Path, workers: int, crew: "Callable[[], AbstractContextManager[Crew]]"
) -> "list[Cell]":
    """Play what is proposed, some at a time, and return all runs; one that fails is told of."""
    from fedllm_app.study.search import Bayes
    from fedllm_app.study.sweep import SweepError, finished, play

    search, cells = Bayes(asked, _falling(asked)), list["Cell"]()
    for begin in range(0, asked.trials, workers):
        batch = search.ask(min(workers, asked.trials - begin))
        try:
            play([cell for _, cell in batch], home, workers, crew=crew)
        except SweepError as error:
            typer.echo(str(error), err=True)
        for trial, cell in batch:
            run = _read(cell, home) if finished(cell, home) else None
            search.tell(trial, run.final(run.headline) if run else None)
        cells += [cell for _, cell in batch]
    return list({cell.name: cell for cell in cells}.values())


def _falling(asked: "Sweep") -> bool:
    """Say whether the headline of the runs is better when it is lower."""
    from fedllm_app.config import RunConfig

    kind = RunConfig.parse(asked.base).task.kind
    return kind.headline in kind.falling


def _read(cell: "Cell", home: Path) -> "Run":
    from fedllm_app.report.run import read_run

    return read_run(home / "runs" / cell.name)


def write_table(asked: "Sweep", cells: "Sequence[Cell]", home: Path, out: Path) -> "list[Run]":
    """Write table.parquet, table.csv and report.html of what is finished; return these runs.

    A row for each run, the best first: the keys that vary, the last value of each metric, and what
    the run cost.
    """
    import pyarrow as pa
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    from fedllm_app.config.unread import unread_keys
    from fedllm_app.report.page import write_comparison
    from fedllm_app.study.sweep import finished

    found = [(cell, _read(cell, home)) for cell in cells if finished(cell, home)]
    sign = 1 if _falling(asked) else -1
    found.sort(key=lambda pair: sign * (pair[1].final(pair[1].headline) or 0.0))
    if not found:
        return []
    rows = []
    for cell, run in found:
        last, evaluated = run.metrics[-1], [r for r in run.metrics if r.get("evaluation")]
        row = {"run": cell.name} | {key: cell.settings.get(key) for key in asked.vary}
        row |= evaluated[-1]["evaluation"] if evaluated else {}
        rows.append(row | {key: last.get(key) for key in COSTS} | {"seconds": run.seconds})
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    out.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, out / "table.parquet")
    pc.write_csv(table, out / "table.csv")
    best = [run.folder for _, run in found[:MOST_COMPARED]]
    write_comparison(best, out / "report.html", unread=unread_keys)
    return [run for _, run in found]
