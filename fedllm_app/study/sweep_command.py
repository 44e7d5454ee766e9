"""`fedllm sweep`: play the runs of a file, and put what they reached and cost into one table.

fedllm sweep sweep.toml --workers 2

It may be stopped at any moment; started again it goes on. <home>/sweeps/NAME/ holds table.parquet,
table.csv and report.html, written anew each time when all is played, or when it is stopped by
Ctrl-C or SIGTERM.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fedllm_app.study.crew import Crew
    from fedllm_app.study.search import Sweep
    from fedllm_app.study.sweep import Cell


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
    from fedllm_app.study.sweep_table import write_table

    asked, place = read_sweep(file), home.expanduser().resolve()
    out, whole = place / "sweeps" / file.stem, ""
    cells, failed = asked.cells() if asked.search != "bayes" else [], dict[str, str]()
    try:
        if asked.search == "bayes":
            _play_bayes(asked, place, workers, _crew(ray, workers), cells, failed)
        else:
            play(cells, place, workers, crew=_crew(ray, workers), failed=failed)
    except SweepError as error:
        failed, whole = error.failed, str(error)
    except (KeyboardInterrupt, SystemExit):
        if played := len(write_table(asked, cells, failed, place, out)):
            typer.echo(f"{played} runs in {out / 'table.csv'}")
        typer.echo("stopped; started again it goes on", err=True)
        raise
    runs = write_table(asked, cells, failed, place, out)
    typer.echo(f"{len(runs)} runs in {out / 'table.csv'}, table.parquet and report.html")
    if failed and asked.search == "bayes":
        typer.echo(f"{len(failed)} other runs failed; why a run failed is in the table", err=True)
    if whole or not runs:
        raise SweepError(whole or "no run was played to its end", failed)


def _crew(ray: str, workers: int) -> "Callable[[], AbstractContextManager[Crew]]":
    """Return where runs are played: processes of this machine, or a Ray cluster."""
    if not ray:
        from fedllm_app.study.crew import processes

        return processes
    from fedllm_app.study.on_ray import on_ray

    return partial(on_ray, ray, workers)


def _play_bayes(
    asked: "Sweep", home: Path, workers: int, crew: "Callable[[], AbstractContextManager[Crew]]",
    cells: "list[Cell]", failed: dict[str, str],
) -> None:  # fmt: skip
    """Play what is proposed, some at a time.

    A run that failed, or whose settings are refused, is told to the search as such.

    Parameters
    ----------
    cells, failed : empty; take in all runs as they are proposed, and why some failed, by name.
    """
    from fedllm_app.report.run import read_run
    from fedllm_app.study.search import Bayes
    from fedllm_app.study.sweep import SweepError, play
    from fedllm_app.study.sweep_table import falling

    search = Bayes(asked, falling(asked))
    for begin in range(0, asked.trials, workers):
        batch = search.ask(min(workers, asked.trials - begin))
        own, now = [cell for _, cell in batch], dict[str, str]()
        before = [*cells]
        cells += own
        later = asked.trials - begin - len(own)
        try:
            play(own, home, workers, crew=crew, before=before, later=later, failed=now)
        except SweepError:
            pass
        finally:
            failed.update(now)
        for trial, cell in batch:
            if cell.name not in now:  # it may have failed when it was proposed before
                failed.pop(cell.name, None)
            run = None if cell.name in now else read_run(home / "runs" / cell.name)
            search.tell(trial, run.final(run.headline) if run else None)
