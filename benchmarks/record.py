"""Write a benchmark's result with what a reader needs to trust and repeat it."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from fedllm_app.run.metrics import versions

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def write_result(name: str, settings: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
    """Write results/NAME.json: command, settings, versions, commit, hardware, rows.

    Folders of this machine are left out of the command and of the rows' settings.
    """
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    document = {
        "command": " ".join(["python", *(_short(word) for word in sys.orig_argv[1:])]),
        "settings": settings,
        "commit": commit,
        "versions": versions(),
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "load-average": [round(x, 1) for x in os.getloadavg()],
        },
        "rows": [_without_paths(row) for row in rows],
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def kept_rows(name: str) -> list[dict[str, Any]]:
    """Return the rows of results/NAME.json, [] if there is none."""
    path = RESULTS / f"{name}.json"
    return list(json.loads(path.read_text())["rows"]) if path.exists() else []


def _short(word: str) -> str:
    """Return the last part of an absolute path, anything else as it is."""
    head, equals, tail = word.rpartition("=")
    return head + equals + (Path(tail).name if tail.startswith("/") else tail)


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_paths(v) for k, v in value.items() if not _is_path(v)}
    return [_without_paths(v) for v in value] if isinstance(value, list) else value


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("/")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [x for x in info.read_text().splitlines() if x.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0].split(":")[1].strip() if names else platform.processor()
