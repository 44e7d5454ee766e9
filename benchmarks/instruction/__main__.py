"""Instruction tuning at the scale of two cores, in stretches.

    make reproduce-instruction ARGS="--data DIR --model FILE"

DIR holds the folders medquad and assistant, FILE is SmolLM2-135M-Instruct (a .gguf file or a
folder). The command starts the study in the background and says where its log is; started again it
goes on. The steps: `start` (the default), `run` (the same in the foreground) and `table` (results
and tables from what is finished). `--list` prints every run with its state.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.instruction.cells import SETS
from benchmarks.instruction.results import STUDY
from benchmarks.study_kit.command import main
from benchmarks.study_kit.entry import Settings


def places(home: Path, found: Mapping[str, Path]) -> Settings:
    """Return what this machine has in the place of each placeholder."""
    sets: Settings = {f"org/{name}": str(found["data"] / name) for name in SETS}
    return sets | {"org/model": str(found["model"])}


if __name__ == "__main__":
    words = (__doc__ or "").splitlines()[0]
    data = {
        "data": "a folder with medquad and assistant in it",
        "model": "SmolLM2-135M-Instruct, a .gguf file or a folder",
    }
    sys.exit(main(STUDY, "benchmarks.instruction", words, data, places))
