"""From finished runs to rows, and the table of docs/instruction-tuning.md."""

from pathlib import Path
from typing import Any

from benchmarks.instruction.cells import Entry, Places, Rates, entries, trials
from benchmarks.record import ROOT, kept_rows, write_result
from fedllm_app.core.errors import FedllmError
from fedllm_app.report.answers import read_answers
from fedllm_app.run.metrics import read_lines
from fedllm_app.study.sweep import finished

NAME = "instruction"
DOCUMENT = ROOT / "docs" / "instruction-tuning.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
NOWHERE = Places()
TEXTS = 3
Row = dict[str, Any]


def best_rates(home: Path) -> Rates:
    """Return the rate of the best trial of each method; who has trials to come is left out."""
    found: dict[str, float] = {}
    every, known = list(trials()), kept()
    for method in dict.fromkeys(entry.method for entry in every):
        rows = [measured(entry, {}, home, known) for entry in every if entry.method == method]
        if all(rows):
            best = min((row for row in rows if row), key=lambda row: float(row["loss"]))
            found[method] = float(best["settings"]["server.lr"])
    return found


def measured(entry: Entry, rates: Rates, home: Path, known: dict[str, Row]) -> Row | None:
    """Return what a finished run measured; where its folder is not here, the row that is known."""
    cell, folder = entry.cell(rates, NOWHERE), home / "runs" / entry.name
    if cell is None:
        return None
    if not folder.exists():
        row = known.get(entry.name)
        return row if row and row["settings"] == dict(cell.settings) else None
    try:
        if not finished(cell, home):
            return None
    except FedllmError as error:
        print(f"left out: {error}")
        return None
    records = read_lines(folder / "metrics.jsonl")
    evaluated = [record for record in records if record.get("evaluation")]
    played = [record for record in records if "up-bytes" in record]
    answers = read_answers(folder)
    return {
        "run": entry.name, "data": entry.data, "method": entry.method, "stage": entry.stage,
        "settings": dict(cell.settings),
        "loss-before": evaluated[0]["evaluation"]["loss"],
        "loss": evaluated[-1]["evaluation"]["loss"],
        "token-accuracy": evaluated[-1]["evaluation"]["token-accuracy"],
        "curve": [
            {"round": r["round"], "loss": r["evaluation"]["loss"],
             "bytes": r.get("up-bytes", 0) + r.get("down-bytes", 0)}
            for r in evaluated
        ],
        "up-bytes": played[-1]["up-bytes"], "down-bytes": played[-1]["down-bytes"],
        "seconds": sum(r.get("seconds") or 0.0 for r in read_lines(folder / "timing.jsonl")),
        **{f"answers-{when}": answers[when] for when in ("before", "after") if answers},
        "texts": answers.get("texts", [])[:TEXTS],
    }  # fmt: skip


def kept() -> dict[str, Row]:
    """Return the rows of the results file by run, {} if there is none."""
    return {row["run"]: row for row in kept_rows(NAME)}


def collect(home: Path) -> list[Row]:
    """Return all rows there are, and write them and the table of the document."""
    rates, known = best_rates(home), kept()
    rows = [row for e in (*trials(), *entries()) if (row := measured(e, rates, home, known))]
    if rows:
        write_result(NAME, {"rates": dict(rates)}, rows)
        text = DOCUMENT.read_text("utf-8")
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        DOCUMENT.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after}", "utf-8")
    return rows


def table(rows: list[Row]) -> str:
    """Return what the document shows of the rows."""
    shown = [row for row in rows if row["stage"] != "rates"]
    if not shown:
        return "The study has not been played to its end yet."
    lines = [
        "| data | method | response loss before | after | ROUGE-L before | after | MB up "
        "| MB down |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in shown:
        scores = [row.get(f"answers-{when}", {}).get("rouge-l") for when in ("before", "after")]
        cells = [
            row["data"], row["method"], f"{row['loss-before']:.3f}", f"{row['loss']:.3f}",
            *("" if score is None else f"{score:.3f}" for score in scores),
            f"{row['up-bytes'] / 1e6:.2f}", f"{row['down-bytes'] / 1e6:.2f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    for row in (one for one in shown if one["method"] == "floss" and one["texts"]):
        head = "| asked | reference | before | after |"
        lines += ["", f"Three texts of {row['data']}, FLoSS:", "", head, "|---|---|---|---|"]
        for text in row["texts"]:
            cells = [_cell(text[key]) for key in ("asked", "reference", "before", "after")]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    one_line = " ".join(text.replace("|", "\\|").split())
    return one_line if len(one_line) <= 300 else f"{one_line[:299]}…"
