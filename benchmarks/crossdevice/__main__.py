"""Language models on devices at the scale of two cores: LSTM, Transformer and Conformer by bytes.

    make reproduce-cross-device ARGS="--roles speeches.parquet --text DIR"

--roles is a file with the columns text and user. DIR holds wikipedia, literature, textbooks and
techdocs, each with train.parquet. The command starts the study in the background and says where its
log is; started again it goes on. The steps: `start` (the default), `run` (the same in the
foreground) and `table` (results, plot and tables from what is finished). `--list` prints every run
with its state.
"""

import sys

from benchmarks.crossdevice.results import STUDY
from benchmarks.crossdevice.texts import places, prepare
from benchmarks.study_kit.command import main

if __name__ == "__main__":
    words = (__doc__ or "").splitlines()[0]
    data = {
        "roles": "a .parquet file with the columns text and user",
        "text": "a folder with wikipedia, literature, textbooks, techdocs",
    }
    sys.exit(main(STUDY, "benchmarks.crossdevice", words, data, places, prepare))
