"""How far a run is: finished, going on, or stopped on its way."""

import fcntl
from pathlib import Path
from typing import Literal

from fedllm_app.core.units import format_seconds
from fedllm_app.report.run import Run

State = Literal["finished", "going", "stopped"]
RESULTS = ("adapter", "model")


def state_of(run: Run) -> State:
    """Return whether a run has its result, is being played, or was left before its end."""
    if any((run.folder / name).is_dir() for name in RESULTS) or run.last_round >= run.asked:
        return "finished"
    return "going" if _is_held(run.folder / "lock") else "stopped"


def rounds_of(run: Run) -> str:
    """Return the rounds played, and of how many where that is not all."""
    if run.last_round >= run.asked:
        return str(run.last_round)
    return f"{run.last_round} of {run.asked}"


def progress(run: Run) -> str:
    """Return one line about a run that has not ended, "" of one that has."""
    state = state_of(run)
    if state == "finished":
        return ""
    done = f"Round {run.last_round} of {run.asked}"
    if state == "stopped":
        return f"{done}: stopped. Start the run again by its name, and it goes on from there."
    each = sum(run.mean_seconds().values())
    left = f", about {format_seconds(each * (run.asked - run.last_round))} left" if each else ""
    return f"{done}{left}. The run is going on; fedllm report writes this page anew."


def _is_held(lock: Path) -> bool:
    """Return whether a process holds a run's folder (see run/checkpoint.py)."""
    try:
        with lock.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
