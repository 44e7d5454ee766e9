"""`fedllm guide`: which settings to take for a fleet, by runs that were measured.

fedllm guide results.json --fleet phone=0.8,pc=0.2 --goal energy
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from fedllm_app.study.guide import Advice

Option = typer.Option
GOAL_WORDS = "time, energy, compute or bytes"


def guide(
    results: Annotated[
        Path,
        typer.Argument(
            help="JSON with rows of finished runs, a sweep's folder (~/.fedllm/sweeps/NAME), or a "
            "folder that holds runs."
        ),
    ],
    fleet: Annotated[str, Option(help="Classes with their shares, as in devices.fleet.")],
    goal: Annotated[str, Option(help=f"What is to be spared: {GOAL_WORDS}.")] = "energy",
    within: Annotated[
        float, Option(min=0, help="Percent of perplexity that the advice may be above the best.")
    ] = 5.0,
    most: Annotated[
        float,
        Option(min=0, help="Limit on the goal (s, J, FLOP, B): the best that it pays for."),
    ] = 0.0,
    clients: Annotated[
        int, Option(min=0, help="Clients of your federation. 0: as many as most runs have.")
    ] = 0,
    parameters: Annotated[
        float, Option(min=0, help="Parameters of your model. 0: those of the runs.")
    ] = 0.0,
    files: Annotated[
        list[Path] | None, Option("--profile", help="A device profile of your own (TOML).")
    ] = None,
    plot: Annotated[Path | None, Option(help="PNG to draw the Pareto front to.")] = None,
) -> None:
    """Say which settings to take, how sure that is, and what nobody has measured."""
    from statistics import fmean

    from rich.console import Console

    from fedllm_app.core.errors import ConfigError
    from fedllm_app.study.finished_runs import read_observed
    from fedllm_app.study.guide import advise, choices
    from fedllm_app.study.guide_words import draw_front, sentences
    from fedllm_app.study.observed import of_one_size
    from fedllm_app.study.on_fleet import GOALS, OnFleet

    if goal not in GOALS:
        raise ConfigError(f"--goal is {goal!r}; expected {GOAL_WORDS}")
    left_out: list[str] = []
    runs = of_one_size(read_observed(results, left_out.append), clients, left_out.append)
    scale = parameters / fmean(run.parameters for run in runs) if parameters else 1.0
    on = OnFleet(fleet, ",".join(str(file.absolute()) for file in files or ()), scale)
    advice = advise(runs, on, goal, within, most)
    console = Console(width=max(100, Console().width))
    for words in (*left_out, *sentences(advice, fleet)):
        console.print(words, highlight=False)
    _print_neighbours(console, advice)
    console.print("What this does not know:")
    for doubt in advice.doubts:
        console.print(f"- {doubt}", highlight=False)
    if plot:
        draw_front(choices(runs, on), [advice.choice], [goal], plot, f"{len(runs)} runs on {fleet}")
        console.print(f"front: {plot}")


def _print_neighbours(console: "Console", advice: "Advice") -> None:
    """Print what changes when one knob does, if a run shows it."""
    from rich.table import Table

    from fedllm_app.study.guide_words import neighbours

    head, *body = neighbours(advice)
    if body:
        table = Table(*head, title="One knob changed, both to the end")
        for row in body:
            table.add_row(*row)
        console.print(table)
