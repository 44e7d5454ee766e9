"""The command of a study: `start` in the background, `run`, `table`, and --list."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.background import start
from benchmarks.study_kit.entry import Settings
from benchmarks.study_kit.study import Study
from fedllm_app.core.errors import FedllmError
from fedllm_app.core.progress import duration
from fedllm_app.run.checkpoint import locked
from fedllm_app.study.sweep import SweepError, play, seconds_left

Places = Callable[[Path, Mapping[str, Path]], Settings]


def main(
    study: Study,
    module: str,
    words: str,
    data: Mapping[str, str],
    places: Places,
    prepare: Places | None = None,
) -> int:
    """Run what was asked for, and say in one line why not.

    Parameters
    ----------
    module : as in `python -m MODULE`; its last part names the home.
    words : what the study is, in a line.
    data : what each option that names data expects, by the option's name.
    places : (home, data) -> what this machine has in the place of settings.
    prepare : the same, called once before the runs; it may write files. None: `places`.
    """
    parser = argparse.ArgumentParser(description=words)
    parser.add_argument("step", nargs="?", default="start", choices=["start", "run", "table"])
    for option, expected in data.items():
        parser.add_argument(f"--{option}", type=Path, help=expected)
    home = Path.home() / ".fedllm" / module.rpartition(".")[2]
    parser.add_argument("--home", type=Path, default=home)
    parser.add_argument("--only", default="", help="stages, with commas between them")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="print the runs and their state")
    arguments = parser.parse_args()
    home = arguments.home.absolute()
    given = {option: getattr(arguments, option) for option in data}
    found = {option: path.absolute() for option, path in given.items() if path}
    stages = [s for s in study.stages if not arguments.only or s in arguments.only.split(",")]
    absent = [option for option in data if option not in found]
    try:
        if arguments.list:
            show(study, home, {} if absent else places(home, found))
        elif arguments.step == "table":
            study.collect(home)
        elif absent:
            parser.error(f"--{absent[0]} is missing; expected {data[absent[0]]}")
        elif arguments.step == "start":
            start(module, home)
        else:
            return run(study, stages, home, lambda: (prepare or places)(home, found),
                       arguments.workers)  # fmt: skip
    except FedllmError as error:
        print(error)
        return 1
    return 0


def run(
    study: Study, stages: list[str], home: Path, places: Callable[[], Settings], workers: int
) -> int:
    """Play what is left, stage by stage; rates are known once their trials are played."""
    failed = []
    with locked(home / "reproduce"):
        here = places()
        for stage in stages:
            cells, number = study.left(stage, here, home), study.stages.index(stage) + 1
            print(f"\nstage {number} of {len(study.stages)}: {stage}, {len(cells)} runs")
            try:
                play(cells, home, workers)
            except SweepError as error:
                failed.append(str(error))
            study.collect(home)
    print("\n".join(failed) or "all that was asked for is played")
    return 1 if failed else 0


def show(study: Study, home: Path, places: Settings) -> None:
    """Print every run with its state, and the time that is left with two workers."""
    rates, known, to_play = study.best_rates(home), study.kept(), []
    for entry in study.every:
        cell = entry.cell(rates, places)
        state = "waits for its trials"
        if cell is not None:
            done = study.measured(entry, rates, home, known) is not None
            state = "finished" if done else "to play"
            to_play += [] if done else [cell]
        print(f"{entry.stage:12} {entry.figure:20} {entry.name:36} {state}")
    seconds = seconds_left(to_play, home) if to_play else 0.0
    about = "" if seconds is None else f", about {duration(seconds / 2)} on two cores"
    print(f"{len(to_play)} runs left{about}")
