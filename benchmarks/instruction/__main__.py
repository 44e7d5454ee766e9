"""Instruction tuning at the scale of two cores, in stretches.

    python -m benchmarks.instruction --data DIR --model FILE

DIR holds the folders medquad and assistant, FILE is SmolLM2-135M-Instruct (a .gguf file, a folder
or a hub name). It starts in the background and says where its log is; started again it goes on. The
steps: `start` (the default), `run` (the same in the foreground) and `table` (results and table from
what is finished). `--list` prints every run with its state.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.background import start
from benchmarks.instruction.cells import STAGES, Places, entries, trials
from benchmarks.instruction.results import best_rates, collect, kept, measured
from fedllm_app.core.errors import FedllmError
from fedllm_app.run.checkpoint import locked
from fedllm_app.study.sweep import Cell, SweepError, play


def main() -> int:
    """Run what was asked for, and say in one line why not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("step", nargs="?", default="start", choices=["start", "run", "table"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", default="")
    parser.add_argument("--home", type=Path, default=Path.home() / ".fedllm" / "instruction")
    parser.add_argument("--only", default="", help="stages, with commas between them")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="print the runs and their state")
    arguments = parser.parse_args()
    home = arguments.home.absolute()
    stages = [stage for stage in STAGES if not arguments.only or stage in arguments.only.split(",")]
    try:
        if arguments.list:
            show(home)
        elif arguments.step == "table":
            collect(home)
        elif not (arguments.data and arguments.model):
            parser.error("--data or --model is missing; expected a folder with medquad and "
                         "assistant in it, and SmolLM2-135M-Instruct")  # fmt: skip
        elif arguments.step == "start":
            start("benchmarks.instruction", home)
        else:
            local = Path(arguments.model)
            model = str(local.absolute()) if local.exists() else arguments.model
            places = Places(str(arguments.data.absolute()), model)
            return run(stages, places, home, arguments.workers)
    except FedllmError as error:
        print(error)
        return 1
    return 0


def run(stages: list[str], places: Places, home: Path, workers: int) -> int:
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


def left(stage: str, places: Places, home: Path) -> list[Cell]:
    """Return the runs of a stage to play: rates known, and no row of the same settings kept."""
    rates, known = best_rates(home), kept()
    return [
        cell
        for entry in (*trials(), *entries())
        if entry.stage == stage
        and (cell := entry.cell(rates, places)) is not None
        and measured(entry, rates, home, known) is None
    ]


def show(home: Path) -> None:
    """Print every run with its state."""
    rates, known = best_rates(home), kept()
    for entry in (*trials(), *entries()):
        done = measured(entry, rates, home, known) is not None
        waits = entry.cell(rates, Places()) is None
        state = "finished" if done else "waits for its trials" if waits else "to play"
        print(f"{entry.stage:10} {entry.method:8} {entry.name:24} {state}")


if __name__ == "__main__":
    sys.exit(main())
