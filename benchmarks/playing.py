"""Play a run as a user does: through `fedllm run`, in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT


def run_command(settings: Mapping[str, Any], recipe: Path | None = None) -> list[str]:
    """Return the command of a run, its settings put over those of a recipe."""
    words = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return [
        sys.executable,
        "-m",
        "fedllm_app.cli",
        "run",
        *([str(recipe)] if recipe else []),
        *words,
    ]


def play_run(settings: Mapping[str, Any], recipe: Path | None = None) -> None:
    """Play a run to its end; subprocess.CalledProcessError if it fails."""
    subprocess.run(run_command(settings, recipe), check=True, cwd=ROOT)
