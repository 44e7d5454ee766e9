"""The study: its runs, and where their rows go."""

from benchmarks.photon.cells import STAGES, entries, trials
from benchmarks.photon.document import write
from benchmarks.study_kit.study import Study

STUDY = Study(
    name="reproduce-photon",
    stages=STAGES,
    trials=tuple(trials()),
    entries=tuple(entries()),
    write=write,
)
