"""Start a study's `run` step in the background: it goes on by itself, in stretches."""

import subprocess
import sys
from pathlib import Path

from fedllm_app.run.checkpoint import locked


def start(module: str, home: Path) -> None:
    """Start `python -m MODULE run` with this command's other words, and say where its log is.

    Raises
    ------
    CheckpointError
        If one is running in this home already: here, and not in a log.
    """
    words = [word for word in sys.argv[1:] if word != "start"]
    log = home / "reproduce.log"
    with locked(home / "reproduce"):
        pass
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", module, "run", *words],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    print(f"started as process {process.pid}; progress: tail -f {log}; stop: kill {process.pid}")
