"""The study: its runs, and where their rows go."""

from pathlib import Path

from benchmarks.crossdevice.cells import STAGES, entries, trials
from benchmarks.crossdevice.document import write
from benchmarks.study_kit.entry import Row
from benchmarks.study_kit.study import Study
from fedllm_app.run.metrics import read_lines


def by_client(folder: Path) -> Row:
    """Return how the last evaluation is spread over clients, {} where none was measured alone."""
    found = [r["by-client"] for r in read_lines(folder / "metrics.jsonl") if r.get("by-client")]
    return {"by-client": found[-1]} if found else {}


STUDY = Study(
    name="reproduce-cross-device",
    stages=STAGES,
    trials=tuple(trials()),
    entries=tuple(entries()),
    write=write,
    more=by_client,
)
