"""Reproduce figures 5.1 to 5.4 of the FLoSS thesis at the scale of two cores, in stretches.

    make reproduce ARGS="--data 20newsgroups=DIR cifar10=DIR shakespeare=FILE \
        --model minilm=DIR dinov2-small=DIR smollm2=FILE"

starts it in the background (about eight hours on two quiet cores) and says where its log is;
started again it goes on. The steps: `start` (the default), `run` (the same in the foreground) and
`table` (results, figures and the tables of docs and README from what is finished). `--list` prints
every run with its state. A task whose places are not given is left out.
"""

import argparse
import fnmatch
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.background import start
from benchmarks.reproduce.cells import STAGES, TASKS, Entry, Rates, entries
from benchmarks.reproduce.document import write_documents
from benchmarks.reproduce.figures import draw
from benchmarks.reproduce.results import NOWHERE, best_rates, collect, is_finished, state
from fedllm_app.core.errors import FedllmError
from fedllm_app.core.progress import duration
from fedllm_app.run.checkpoint import locked
from fedllm_app.study.sweep import Cell, SweepError, play, rounds_left, seconds_left

Places = dict[str, dict[str, str]]


def main() -> int:
    """Run what was asked for, and say in one line why not."""
    arguments = parse()
    try:
        return step(arguments)
    except FedllmError as error:
        print(error)
        return 1


def step(arguments: argparse.Namespace) -> int:
    """Run one step and return its exit status."""
    places, chosen = places_of(arguments), chosen_entries(arguments.only)
    if arguments.list:
        show(chosen, places, arguments.home)
    elif arguments.step == "table":
        tables(arguments.home)
    elif not places:
        print("No task has its places: give --data and --model, see the top of this file.")
        return 2
    elif arguments.step == "start":
        start("benchmarks.reproduce", arguments.home)
    else:
        return run(chosen, places, arguments.home, arguments.workers)
    return 0


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("step", nargs="?", default="start", choices=["start", "run", "table"])
    parser.add_argument("--data", nargs="+", default=[], metavar="NAME=PATH")
    parser.add_argument("--model", nargs="+", default=[], metavar="NAME=PATH")
    parser.add_argument("--home", type=Path, default=Path.home() / ".fedllm" / "bench-s")
    parser.add_argument("--only", default="*", help="pattern of a run's name or a figure")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="print the runs and their state")
    arguments = parser.parse_args()
    arguments.home = arguments.home.absolute()
    return arguments


def places_of(arguments: argparse.Namespace) -> Places:
    """Return the settings that place each task's data and model; a task without is left out."""
    given = {}
    for kind in ("data", "model"):
        pairs = (pair.partition("=") for pair in getattr(arguments, kind))
        given[kind] = {name: str(Path(path).absolute()) for name, _, path in pairs}
    places = {}
    for name, task in TASKS.items():
        data, model = given["data"].get(task.data), given["model"].get(task.model)
        if data and model:
            places[name] = {"data.train": data, "model.source": model}
        elif arguments.step != "table" and not arguments.list:
            print(f"{name} is left out: give --data {task.data}=PATH and --model {task.model}=PATH")
    return places


def chosen_entries(pattern: str) -> list[Entry]:
    """Return the entries whose run's name or figure matches."""
    return [e for e in entries() if any(fnmatch.fnmatch(x, pattern) for x in (e.name, e.figure))]


def run(chosen: Sequence[Entry], places: Places, home: Path, workers: int) -> int:
    """Play what is left, stage by stage; learning rates are known once their trials are played."""
    failed = []
    with locked(home / "reproduce"):
        for stage in STAGES:
            rates = best_rates(home)
            own = [e for e in chosen if e.stage == stage and e.task in places]
            cells = cells_of(own, rates, places)
            if not cells:
                continue
            print(f"\nstage {STAGES.index(stage) + 1} of {len(STAGES)}: {stage}{rest(home)}")
            try:
                play(cells, home, workers)
            except SweepError as error:
                failed.append(str(error))
            tables(home)
    print("\n".join(failed) or "all that was asked for is played")
    return 1 if failed else 0


def cells_of(chosen: Sequence[Entry], rates: Rates, places: Places) -> list[Cell]:
    """Return the runs of the entries, each once; those without learning rates are named."""
    cells: dict[tuple[str, int], Cell] = {}
    for entry in chosen:
        cell = entry.cell(rates, places.get(entry.task, NOWHERE))
        if cell is None:
            print(f"{entry.name} waits for the trials of {entry.tuned_as}")
        else:
            cells.setdefault((entry.name, entry.rounds), cell)
    return list(cells.values())


def rest(home: Path) -> str:
    """Return how many runs of the whole table are finished, in words."""
    rates, names = best_rates(home), {(e.name, e.rounds): e for e in entries()}
    done = sum(is_finished(entry, rates, home) for entry in names.values())
    return f" ({done} of all {len(names)} runs are finished)"


def show(chosen: Sequence[Entry], places: Places, home: Path) -> None:
    """Print every run with its state, and the time that is left with two workers."""
    rates, seconds, seen = best_rates(home), 0.0, set()
    for entry in chosen:
        if (entry.name, entry.rounds) in seen:
            continue
        seen.add((entry.name, entry.rounds))
        cell = entry.cell(rates, places.get(entry.task, NOWHERE))
        left, state = entry.rounds, "waits for its trials"
        if cell is not None:
            try:
                left = rounds_left(cell, home)
                state = "finished" if not left else f"{left} rounds to play"
            except FedllmError as error:
                state = f"cannot be played: {str(error).splitlines()[0]}"
        pace = TASKS[entry.task].round_s
        if cell is not None and left and "cannot" not in state:
            measured = seconds_left([cell], home)
            pace = pace if measured is None else measured / left
        seconds += pace * left
        about = f", about {duration(pace * left)}" if left else ""
        print(f"{entry.stage:8} {entry.figure:8} {entry.name:48} {state}{about}")
    print(f"{len(seen)} runs, about {duration(seconds / 2)} left on two cores")


def tables(home: Path) -> None:
    """Write results, figures and tables from what is finished."""
    table, rates = entries(), best_rates(home)
    refused = {word for e in table if isinstance(word := state(e, rates, home), str)}
    print("\n".join(f"left out: {why}" for why in sorted(refused)), end="\n" if refused else "")
    rows = collect(table, rates, home)
    draw(rows)
    write_documents(rows, table, rates)


if __name__ == "__main__":
    sys.exit(main())
