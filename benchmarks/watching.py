"""Look at something again and again, in a thread, while something else runs."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import psutil


@contextmanager
def watching(look: Callable[[], None], every_s: float) -> Iterator[None]:
    """Call `look` every so many seconds until the block ends."""
    done = threading.Event()

    def again() -> None:
        while not done.wait(every_s):
            look()

    thread = threading.Thread(target=again, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def started(kinds: Mapping[str, str]) -> Iterator[tuple[str, psutil.Process]]:
    """Yield the processes that this one has started, directly or not, with their kind.

    Parameters
    ----------
    kinds : by a part of the command line; others are left out.
    """
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if kind := next((k for part, k in kinds.items() if part in command), ""):
                yield kind, process
