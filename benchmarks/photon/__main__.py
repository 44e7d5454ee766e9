"""Federated pre-training beside centralized, at the scale of two cores, in stretches.

    make reproduce-photon ARGS="--data DIR"      DIR holds a folder for each source

starts it in the background and says where its log is; started again it goes on. The steps: `start`
(the default), `run` (the same in the foreground) and `table` (results, plot and tables from what is
finished). `--list` prints every run with its state.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.photon.results import STUDY
from benchmarks.study_kit.command import main
from benchmarks.study_kit.entry import Settings


def places(home: Path, found: Mapping[str, Path]) -> Settings:
    """Return what this machine has in the place of each placeholder."""
    return {"org/data": str(found["data"])}


if __name__ == "__main__":
    words = (__doc__ or "").splitlines()[0]
    data = {"data": "a folder that holds one for each source"}
    sys.exit(main(STUDY, "benchmarks.photon", words, data, places))
