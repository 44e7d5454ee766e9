"""One row of `make bench`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Literal

import torch


@dataclass(frozen=True)
class Context:
    """What a group of rows is given.

    Attributes
    ----------
    quick : measure less: fewer repeats, smaller numbers, no run of bench-S.
    places : "20newsgroups", "minilm", "smollm2" -> path, as far as they were given.
    folder : an empty folder of the group's own, gone afterwards.
    home : where runs of bench-S are kept and found again.
    """

    quick: bool
    places: dict[str, str]
    folder: Path
    home: Path

    def lacks(self, *names: str) -> str:
        """Return what a row needs and was not given, in words; "" if nothing is missing."""
        missing = [name for name in names if name not in self.places]
        kinds = [f"--{'data' if n == '20newsgroups' else 'model'} {n}=PATH" for n in missing]
        return f"needs {' '.join(kinds)}" if kinds else ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A figure of ours beside its limit or peer.

    Attributes
    ----------
    what : the row's name.
    measured, unit : ours.
    peer, theirs : name of the limit or peer, and its figure in the same unit.
    judged : what the target is about; `about` says what that is, for example "ratio".
    target : for example ("at most", 1.02); None is a report.
    skipped : why the row was not measured; "" if it was.
    details : everything else that was measured, and the settings.
    """

    what: str
    measured: float | None = None
    unit: str = ""
    peer: str = ""
    theirs: float | None = None
    judged: float | None = None
    about: str = "ratio"
    target: tuple[Literal["at most", "at least"], float] | None = None
    skipped: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Return "pass", "short", "report", or "not run"."""
        if self.skipped:
            return "not run"
        if self.target is None or self.judged is None:
            return "report"
        way, bound = self.target
        return (
            "pass"
            if (self.judged <= bound if way == "at most" else self.judged >= bound)
            else ("short")
        )

    def record(self) -> dict[str, Any]:
        """Return the row as it is written to a result."""
        return asdict(self) | {"verdict": self.verdict}


def alternately(repeats: int, *measures: Callable[[], Any]) -> list[list[float]]:
    """Return the seconds of each call, taken in turns so that noise falls on all alike."""
    seconds: list[list[float]] = [[] for _ in measures]
    for measure in measures:
        measure()  # warm caches
    for _ in range(repeats):
        for own, measure in zip(seconds, measures, strict=True):
            began = perf_counter()
            measure()
            own.append(perf_counter() - began)
    return seconds


def ratio_of(ours: list[float], theirs: list[float]) -> float:
    """Return the median of the ratios of pairs that were measured one after the other."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch have this many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
