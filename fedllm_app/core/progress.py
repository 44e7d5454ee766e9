"""Say how far a long step is, in whole lines: a run's log is a stream, where bars do not show."""

import logging
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

log = logging.getLogger("fedllm")
T = TypeVar("T")
EVERY_S = 5.0


def duration(seconds: float) -> str:
    """Return a rough duration: `42 s`, `7 min`, `1.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def with_progress(items: Sequence[T], what: str) -> Iterator[T]:
    """Yield the items, with a line every five seconds of how many are done and the time left."""
    began = said = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - said >= EVERY_S:
            said = now
            left = (now - began) / done * (len(items) - done)
            log.info("%s: %d %%, about %s left", what, 100 * done // len(items), duration(left))
        yield item
