"""Where the runs of a sweep are played, each in a process of its own: here, on this machine."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import NamedTuple, Protocol

from fedllm_app.config import RunConfig
from fedllm_app.play import run_local

GRACE_S = 10.0  # from a polite end to a forced one


class Ended(NamedTuple):
    """A run that is over: its name, the seconds it took, and whether it was played to its end."""

    name: str
    seconds: float
    played: bool


class Crew(Protocol):
    """Plays runs, some at a time."""

    def start(self, name: str, config: RunConfig, log: Path) -> None:
        """Start a run; what it says goes to the end of a file."""

    def ended(self) -> list[Ended]:
        """Wait until a run is over, and return those that are."""


class Processes:
    """Processes of this machine."""

    def __init__(self) -> None:
        self._at_work: dict[str, tuple[BaseProcess, float]] = {}

    def start(self, name: str, config: RunConfig, log: Path) -> None:
        """Start a process."""
        process = _started_by().Process(target=_play_here, args=(config, log))
        process.start()
        self._at_work[name] = process, time.monotonic()

    def ended(self) -> list[Ended]:
        """Wait for the end of a process."""
        over, ended = set(wait([p.sentinel for p, _ in self._at_work.values()])), []
        for name, (process, began) in [*self._at_work.items()]:
            if process.sentinel in over:
                process.join()
                del self._at_work[name]
                ended.append(Ended(name, time.monotonic() - began, process.exitcode == 0))
        return ended

    def stop(self) -> None:
        """End what is at work."""
        for process, _ in self._at_work.values():
            process.terminate()
        for process, _ in self._at_work.values():
            process.join(GRACE_S)
            if process.exitcode is None:
                process.kill()
                process.join()


@contextmanager
def processes() -> Iterator[Crew]:
    """Yield the processes of this machine; whatever ends the block ends those at work."""
    crew = Processes()
    with stopping(crew.stop):
        yield crew


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at the end of the block, whatever ends it, SIGTERM too."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, leave) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stop()
        if main:
            signal.signal(signal.SIGTERM, before)


def play_into(config: RunConfig, log: Path) -> None:
    """Play a run in this process, which was started for it; what it says goes to a file."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    run_local(config)


def _play_here(config: RunConfig, log: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sweep hears it and ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    play_into(config, log)


def _started_by() -> SpawnContext | ForkServerContext:
    """Return how processes start: where possible as forks of one that has the imports done."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fedllm_app.play", "datasets", "torch.utils.tensorboard"])
    return context


def _end_with_parent() -> None:
    """End this process when the sweep is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
