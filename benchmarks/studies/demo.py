"""The default run from nothing: how long the first `make run` takes after installation.

    python -m benchmarks.studies.demo

Plays the default federation through `flwr run` twice in a new home: the first run reads the
embedded text and pre-trains its backbone, the second starts from the cache.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.playing import play_run
from benchmarks.record import write_result


def play(home: Path, name: str) -> dict[str, Any]:
    """Play the default run and return what it measured."""
    began = time.monotonic()
    play_run({"run.home": str(home), "run.name": name})
    seconds = time.monotonic() - began
    folder = home / "runs" / name
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    accuracy = {r["round"]: r["evaluation"]["accuracy"] for r in records if "evaluation" in r}
    timing = [json.loads(line) for line in (folder / "timing.jsonl").read_text().splitlines()]
    return {
        "run": name,
        "wall-seconds": round(seconds, 1),
        "seconds-of-rounds": round(sum(r.get("seconds", 0.0) for r in timing), 1),
        "accuracy": accuracy,
        "up-bytes": records[-1]["up-bytes"],
        "down-bytes": records[-1]["down-bytes"],
    }


def main() -> None:
    """Play both runs."""
    rows = []
    with tempfile.TemporaryDirectory() as home:
        for name in ("first", "second"):
            rows.append(play(Path(home), name))
            write_result("demo", {"recipe": "the defaults of pyproject.toml"}, rows)


if __name__ == "__main__":
    main()
