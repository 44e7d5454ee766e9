"""classes.json of a run: how each class fared in its last evaluation."""

import json
from collections.abc import Sequence
from pathlib import Path

from fedllm_app.core.files import replacing
from fedllm_app.run.metrics import Record

CLASSES = "classes.json"
KEYS = {"label", "examples", "correct", "predicted"}


def write_classes(folder: Path, round: int, classes: Sequence[Record]) -> None:
    """Write the classes of the evaluation after a round; none leaves a file of before in place.

    A run that was killed at its very end evaluates nothing when it is started again.
    """
    if classes:
        with replacing(folder / CLASSES) as file:
            found = {"round": round, "classes": list(classes)}
            file.write(json.dumps(found, indent=1, sort_keys=True).encode() + b"\n")


def read_classes(folder: Path, round: int) -> list[Record]:
    """Return the classes after a round, [] where they are of another or the file is not ours."""
    try:
        found = json.loads((folder / CLASSES).read_text("utf-8"))
        classes = found["classes"] if found["round"] == round else []
        return [one for one in classes if one.keys() >= KEYS and one["examples"] > 0]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
