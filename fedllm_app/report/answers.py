"""answers.json of a run: what the model answered before and after training, and how well."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedllm_app.core.files import replacing
from fedllm_app.core.units import format_metric
from fedllm_app.report.tables import Cell, Row, Table

ANSWERS = "answers.json"
SHOWN, LONGEST = 8, 700  # texts on the page, and characters of each
SCORES = {"exact-match": "Exact match", "rouge-l": "ROUGE-L"}


def write_answers(folder: Path, round: int, found: Mapping[str, Any]) -> None:
    """Write the answers after a round, in one step."""
    with replacing(folder / ANSWERS) as file:
        text = json.dumps({"round": round, **found}, indent=1, ensure_ascii=False)
        file.write(text.encode() + b"\n")


def read_answers(folder: Path) -> dict[str, Any]:
    """Return what is there, {} where there is none or it is not ours."""
    try:
        found = json.loads((folder / ANSWERS).read_text("utf-8"))
        texts = found["texts"]
        whole = all({"asked", "reference", "before", "after"} <= text.keys() for text in texts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return dict(found) if texts and whole else {}


def answers_tables(folder: Path) -> list[Table]:
    """Return a table of scores and one of texts; [] where nothing was answered."""
    found = read_answers(folder)
    if not found:
        return []
    scored = [
        Row([Cell(name), *(Cell(format_metric(found[w].get(key))) for w in ("before", "after"))])
        for key, name in SCORES.items()
    ]
    texts = [
        Row(
            [
                Cell(_short(text["asked"])),
                *(Cell(_short(text[key])) for key in ("reference", "before", "after")),
            ]
        )
        for text in found["texts"][:SHOWN]
    ]
    count = len(found["texts"])
    note = f"Over {count:,} held-out conversations, answered greedily. All are in {ANSWERS}."
    return [
        Table("Answers", ["Score", "Before training", "After"], scored, note, look="fit"),
        Table(
            "What is answered",
            ["Asked", "Reference", "Before training", "After"],
            texts,
            numbers=False,
        ),
    ]


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
