"""Federated pre-training beside centralized, at the scale of two cores, in stretches.

    make reproduce-photon ARGS="--data DIR"      DIR holds a folder for each source

starts it in the background and says where its log is; started again it goes on. The steps: `start`
(the default), `run` (the same in the foreground) and `table` (results, plot and tables from what is
finished). `--list` prints every run with its state.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.background import start
from benchmarks.photon.cells import STAGES, Entry, Settings, entries, trials
from benchmarks.photon.results import NOWHERE, best_rates, collect, kept, left, measured
from fedllm_app.core.errors import FedllmError
from fedllm_app.core.progress import duration
from fedllm_app.run.checkpoint import locked
from fedllm_app.study.sweep import SweepError, play, seconds_left


def main() -> int:
    """Run what was asked for, and say in one line why not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("step", nargs="?", default="start", choices=["start", "run", "table"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--home", type=Path, default=Path.home() / ".fedllm" / "photon")
    parser.add_argument("--only", default="", help="stages, with commas between them")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="print the runs and their state")
    arguments = parser.parse_args()
    home = arguments.home.absolute()
    places = {"data.train": str(arguments.data.absolute())} if arguments.data else NOWHERE
    stages = [stage for stage in STAGES if not arguments.only or stage in arguments.only.split(",")]
    try:
        if arguments.list:
            show(home, places)
        elif arguments.step == "table":
            collect(home)
        elif not arguments.data:
            parser.error("--data is missing; expected a folder that holds one for each source")
        elif arguments.step == "start":
            start("benchmarks.photon", home)
        else:
            return run(stages, places, home, arguments.workers)
    except FedllmError as error:
        print(error)
        return 1
    return 0


def run(stages: list[str], places: Settings, home: Path, workers: int) -> int:
    """Play what is left, stage by stage; rates are known once their trials are played."""
    failed = []
    with locked(home / "reproduce"):
        for stage in stages:
            cells = left(stage, places, home)
            print(f"\nstage {STAGES.index(stage) + 1} of {len(STAGES)}: {stage}, {len(cells)} runs")
            try:
                play(cells, home, workers)
            except SweepError as error:
                failed.append(str(error))
            collect(home)
    print("\n".join(failed) or "all that was asked for is played")
    return 1 if failed else 0


def every() -> list[Entry]:
    """Return all runs, trials among them."""
    return [*trials(), *entries()]


def show(home: Path, places: Settings) -> None:
    """Print every run with its state, and the time that is left with two workers."""
    rates, known, to_play = best_rates(home), kept(), []
    for entry in every():
        cell = entry.cell(rates, places)
        state = "waits for its trials"
        if cell is not None:
            done = measured(entry, rates, home, known) is not None
            state = "finished" if done else "to play"
            to_play += [] if done else [cell]
        print(f"{entry.stage:12} {entry.figure:20} {entry.name:36} {state}")
    seconds = seconds_left(to_play, home) if to_play else 0.0
    about = "" if seconds is None else f", about {duration(seconds / 2)} on two cores"
    print(f"{len(to_play)} runs left{about}")


if __name__ == "__main__":
    sys.exit(main())
