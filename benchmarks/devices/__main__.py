"""Batch, clients, rates, schedules and shares on fleets of unequal devices, in stretches.

    make reproduce-devices ARGS="--data DIR"      DIR holds a folder for each source

starts it in the background and says where its log is; started again it goes on. The steps: `start`
(the default), `run` (the same in the foreground) and `table` (results, plots and docs/guide.md
from what is finished). `--list` prints every run with its state.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.background import start
from benchmarks.devices.cells import STAGES, Settings, entries
from benchmarks.devices.document import write
from benchmarks.devices.results import HELD, NAME, NOWHERE, collect, held_entries, kept, left
from benchmarks.devices.results import measured as row_there_is
from fedllm_app.core.errors import FedllmError
from fedllm_app.core.progress import duration
from fedllm_app.run.checkpoint import locked
from fedllm_app.study.sweep import SweepError, play, seconds_left


def main() -> int:
    """Run what was asked for, and say in one line why not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("step", nargs="?", default="start", choices=["start", "run", "table"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--home", type=Path, default=Path.home() / ".fedllm" / "devices")
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
            write(*collect(home))
        elif not arguments.data:
            parser.error("--data is missing; expected a folder that holds one for each source")
        elif arguments.step == "start":
            start("benchmarks.devices", home)
        else:
            return run(stages, places, home, arguments.workers)
    except FedllmError as error:
        print(error)
        return 1
    return 0


def run(stages: list[str], places: Settings, home: Path, workers: int) -> int:
    """Play what is left, stage by stage; the last stage plays what the guide advises, too."""
    failed = []
    with locked(home / "reproduce"):
        for stage in stages:
            for _ in range(2 if stage == "held out" else 1):  # once more, when the advice is known
                cells = left(stage, places, home)
                print(f"\nstage {STAGES.index(stage) + 1} of {len(STAGES)}: {stage}, "
                      f"{len(cells)} runs")  # fmt: skip
                try:
                    play(cells, home, workers)
                except SweepError as error:
                    failed.append(str(error))
            write(*collect(home))
    print("\n".join(failed) or "all that was asked for is played")
    return 1 if failed else 0


def show(home: Path, places: Settings) -> None:
    """Print every run with its state, and the time that is left with two workers."""
    to_play = []
    for every, name in ((entries(), NAME), (held_entries(home), HELD)):
        known = kept(name)
        for entry in every:
            done = row_there_is(entry, home, known) is not None
            to_play += [] if done else [entry.cell(places)]
            print(f"{entry.stage:12} {entry.name:40} {'finished' if done else 'to play'}")
    seconds = seconds_left(to_play, home) if to_play else 0.0
    about = "" if seconds is None else f", about {duration(seconds / 2)} on two cores"
    print(f"{len(to_play)} runs left{about}")


if __name__ == "__main__":
    sys.exit(main())
