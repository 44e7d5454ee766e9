"""Watts of this machine while something runs, where the system reports them.

Linux counts the energy of each processor package (RAPL, on Intel's and AMD's processors), and
NVIDIA's driver tells what a GPU draws. Both leave out the rest of the machine: screen, disks, fans,
losses of the power supply.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from threading import Event, Thread

import torch

ENERGY = Path("/sys/class/powercap")
EVERY_S = 0.5  # between two readings of a GPU


@dataclass
class Drawn:
    """What was drawn, once the time is over.

    Attributes
    ----------
    watts : mean by part, as in {"package-0": 14.2, "GPU": 210.0}; empty where nothing is reported.
    """

    watts: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """The watts of all parts that report them; 0 where none does."""
        return sum(self.watts.values())


@contextmanager
def drawn(gpu: bool) -> Iterator[Drawn]:
    """Measure the power for as long as the context is open.

    Parameters
    ----------
    gpu : the work is on this process's CUDA device.
    """
    found, readings, over = Drawn(), list[float](), Event()
    sampler = Thread(target=_sample, args=(gpu_watts, readings, over), daemon=True)
    if gpu:
        sampler.start()
    before, began = joules(), time.monotonic()
    try:
        yield found
    finally:
        after, seconds = joules(), time.monotonic() - began
        over.set()
        if gpu:
            sampler.join()
    found.watts |= used_watts(before, after, seconds)
    if readings:
        found.watts["GPU"] = fmean(readings)


def _sample(read: Callable[[], float | None], readings: list[float], over: Event) -> None:
    """Append what is read, until it is over or there is nothing to read."""
    while not over.wait(EVERY_S):
        if (watts := read()) is None:
            return
        readings.append(watts)


def gpu_watts() -> float | None:
    """Return the watts of this process's CUDA device; None where they cannot be read."""
    try:
        return torch.cuda.power_draw() / 1e3  # milliwatts
    except Exception:  # pynvml is missing, or raises errors of its own: the GPU reports nothing
        return None


def joules() -> dict[str, tuple[float, float]]:
    """Return the joules that each processor package has used, and at which its counter begins anew.

    A zone for the whole platform (psys) counts the packages again, so it is left out, as are parts
    of a package. {} where the system does not say.
    """
    found = {}
    for zone in sorted(ENERGY.glob("*-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            if name.startswith("package"):
                used, most = (
                    int((zone / file).read_text()) / 1e6
                    for file in ("energy_uj", "max_energy_range_uj")
                )
                found[name] = (used, most)
        except (OSError, ValueError):  # it is there, and only root may read it
            continue
    return found


def used_watts(
    before: Mapping[str, tuple[float, float]],
    after: Mapping[str, tuple[float, float]],
    seconds: float,
) -> dict[str, float]:
    """Return the mean watts by package between two readings; a counter may begin anew once."""
    found = {}
    for name in before.keys() & after.keys():
        used, most = after[name][0] - before[name][0], after[name][1]
        if used := used if used >= 0 else used + most:
            found[name] = used / seconds
    return dict(sorted(found.items()))
