"""The study: its runs, and where their rows go."""

from benchmarks.crossdevice.cells import STAGES, entries, trials
from benchmarks.crossdevice.document import write
from benchmarks.study_kit.study import Study

STUDY = Study(
    name="reproduce-cross-device",
    stages=STAGES,
    trials=tuple(trials()),
    entries=tuple(entries()),
    write=write,
)
