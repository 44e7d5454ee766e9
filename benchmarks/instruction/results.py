"""The study: its runs, what a row holds, and the table of docs/instruction-tuning.md."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev

from benchmarks.instruction.cells import SERVER_LRS, STAGES, entries, trials
from benchmarks.instruction.figures import NAME, draw
from benchmarks.markers import fill, printed
from benchmarks.record import ROOT
from benchmarks.study_kit.entry import Row
from benchmarks.study_kit.points import by_point
from benchmarks.study_kit.study import Study
from fedllm_app.report.answers import read_answers
from fedllm_app.run.metrics import read_lines

DOCUMENT = ROOT / "docs" / "instruction-tuning.md"
FIGURE = (
    "![Held-out response loss and ROUGE-L against rounds and against megabytes up and down]"
    f"(figures/{NAME}.png)"
)
TEXTS, LONGEST = 3, 300


def more(folder: Path) -> Row:
    """Return what a row holds beside loss and bytes: the start, answers, seconds, some texts."""
    records, answers = read_lines(folder / "metrics.jsonl"), read_answers(folder)
    evaluated = [record["evaluation"] for record in records if record.get("evaluation")]
    seconds = (line.get("seconds") or 0.0 for line in read_lines(folder / "timing.jsonl"))
    return {
        "loss-before": evaluated[0]["loss"],
        "token-accuracy": evaluated[-1]["token-accuracy"],
        "megabytes": {
            str(r["round"]): (r.get("up-bytes", 0) + r.get("down-bytes", 0)) / 1e6
            for r in records if r.get("evaluation")
        },
        "rouge-l": {
            str(r["round"]): r["evaluation"]["rouge-l"]
            for r in records if "rouge-l" in (r.get("evaluation") or {})
        },
        "seconds": sum(seconds),
        **{f"answers-{when}": answers[when] for when in ("before", "after") if answers},
        "texts": answers.get("texts", [])[:TEXTS],
    }  # fmt: skip


def write(rows: Sequence[Row]) -> None:
    """Write the table, the figure and the texts into the document."""
    played = [row for row in rows if not row["run"].startswith("trial-")]
    if played:
        shown = table(played) + (f"\n\n{FIGURE}" if draw(played) else "")
        fill(DOCUMENT, {"instruction-results": shown, "instruction-texts": texts(played)})


def table(rows: Sequence[Row]) -> str:
    """Return loss, ROUGE-L, bytes and the rate of every method on every set, means over seeds."""
    head = [
        "data", "method", "rate", "response loss before", "after", "ROUGE-L before", "after",
        "MB up", "MB down",
    ]  # fmt: skip
    body = []
    for point, own in by_point(rows).items():
        data, _, method = point.partition("-")
        body.append([
            data, method, _rate(own[0]), _mean(own, lambda row: row["loss-before"]),
            _mean(own, lambda row: row["loss"]),
            *(_mean(own, lambda row, w=when: row.get(f"answers-{w}", {}).get("rouge-l"))
              for when in ("before", "after")),
            f"{own[0]['up-bytes'] / 1e6:.2f}", f"{own[0]['down-bytes'] / 1e6:.2f}",
        ])  # fmt: skip
    return printed([head, *body])


def _rate(row: Row) -> str:
    """Return the server's rate, and whether none beyond it was tried."""
    lr = row["settings"]["server.lr"]
    ends = {min(SERVER_LRS): " (the lowest tried)", max(SERVER_LRS): " (the highest tried)"}
    return f"{lr:g}{ends.get(lr, '')}"


def _mean(rows: Sequence[Row], of: Callable[[Row], float | None]) -> str:
    """Return the mean of a value with its spread over seeds, "" where a row has none."""
    values = [value for row in rows if (value := of(row)) is not None]
    if len(values) < len(rows):
        return ""
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{fmean(values):.3f}{spread}"


def texts(rows: Sequence[Row]) -> str:
    """Return some texts of FLoSS on each set, of its first seed, beside their references."""
    keys = ("asked", "reference", "before", "after")
    parts = [
        f"{row['run']}:\n\n"
        + printed([[*keys], *([_cell(text[key]) for key in keys] for text in row["texts"])])
        for row in rows if row["run"].endswith("-floss-s0") and row["texts"]
    ]  # fmt: skip
    return "\n\n".join(parts)


def _cell(text: str) -> str:
    one_line = " ".join(text.replace("|", "\\|").split())
    return one_line if len(one_line) <= LONGEST else f"{one_line[: LONGEST - 1]}…"


STUDY = Study(
    name="instruction",
    stages=STAGES,
    trials=tuple(trials()),
    entries=tuple(entries()),
    write=write,
    more=more,
)
