"""Time this machine on a real training step, and write it down as a class of devices.

Measured are FLOP/s (those of `models/flops.py` over the median seconds of the steps that a run
takes), memory, and where the system reports them, watts (`study/power.py`). All other figures are
those of a class that is named, marked as assumed.
"""

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import torch

from fedllm_app.client.gradient import Batch
from fedllm_app.client.kept import Kept
from fedllm_app.client.settings import ClientSettings
from fedllm_app.client.train import Device, train
from fedllm_app.config import RunConfig
from fedllm_app.core.job import Job
from fedllm_app.core.plan import ClientPlan
from fedllm_app.core.progress import duration, with_progress
from fedllm_app.devices.profile import Figure, Profile
from fedllm_app.models.flops import step_cost
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.study.power import Drawn, drawn

log = logging.getLogger("fedllm")
WARM = 3  # steps before those that are timed: caches, memory and clocks settle
FEWEST, MOST = 5, 1000  # steps that are timed


def measured_profile(
    config: RunConfig, name: str, like: Profile, seconds: float = 20.0, watts: float = 0.0
) -> Profile:
    """Return this machine as a class of devices.

    Parameters
    ----------
    config : whose model, data and batch the step has; the client with most examples takes it.
    like : the class that what is not measured is taken from.
    seconds : for how long steps are timed, after the first ones.
    watts : what the machine draws while it trains, as its owner knows; 0: not known.
    """
    parts = Parts(config, Place.of(config))
    client, _ = max(parts.counts().items(), key=lambda pair: pair[1])
    with TemporaryDirectory(prefix="fedllm-") as folder:
        device = parts.device(Path(folder))
        batch = next(iter(device.batches(client, config.client.batch, np.random.default_rng(0))))
        rows, gpu = len(next(iter(batch.values()))), device.model.flat.is_cuda
        FLOPs = step_cost(parts.model, batch, parts.task.loss).flops() * rows
        warm = _step_seconds(device, client, batch, WARM)[-1]
        count = min(MOST, max(FEWEST, math.ceil(seconds / warm)))
        log.info("timing %d steps of %.3g FLOP, about %s", count, FLOPs, duration(count * warm))
        with drawn(gpu) as power:
            took = _step_seconds(device, client, batch, count)
    step_s, slow_s = median(took), float(np.quantile(took, 0.9))
    found = {
        figure: Figure(own.value, own.unit, "assumed", f"as of {like.name}, not measured here")
        for figure, own in like.figures.items()
    }
    source = config.model.source
    if Path(source).is_absolute():  # where it lies here tells nobody else anything
        source = Path(source).name
    what = (
        f"{FLOPs:.3g} FLOP in {step_s:.3g} s, the median of {len(took)} steps of "
        f"{source} with {rows} rows; nine of ten took at most {slow_s:.3g} s"
    )
    found["flops"] = Figure(FLOPs / step_s, "FLOP/s", "measured", what)
    found["memory"] = _gpu_memory() if gpu else _memory()
    found["compute-power"] = _power(power, watts, like)
    return Profile(name, f"measured here: {source}", found)


def _step_seconds(device: Device, client: str, batch: Batch, count: int) -> list[float]:
    """Return the seconds of each of so many local steps that a client takes on one batch."""
    began: list[float] = []

    def batches(*_: object) -> Iterator[Batch]:
        # A step lasts until the next one asks for its batch, so there is one more.
        for _step in with_progress(range(count + 1), "timing steps"):
            if device.model.flat.is_cuda:
                torch.cuda.synchronize()
            began.append(time.perf_counter())
            yield batch

    plain = {"steps": count + 1, "keep_optimizer": False, "rule": ClientSettings().rule}
    settings = device.settings.model_copy(update=plain)
    device.model.load(device.initial)
    timed = replace(device, settings=settings, stream=None, batches=batches)
    train(timed, Job(1, client), ClientPlan(), None, Kept(), {})
    return np.diff(began).tolist()


def _memory() -> Figure:
    """Return what a run on this machine can have, and say how much this process held at most."""
    machine, own = psutil.virtual_memory(), psutil.Process().memory_info().rss
    source = (
        f"what was free of {machine.total / 1e9:.3g} GB, and this process, which held at most "
        f"{max(own, _peak()) / 1e6:.0f} MB"
    )
    return Figure(float(machine.available + own), "B", "measured", source)


def _peak() -> int:
    """Return the largest resident size of this process so far in bytes; 0 if it is not known."""
    # Not getrusage's: that of a process which a larger one started is the larger one's.
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 0


def _gpu_memory() -> Figure:
    """Return what a run on this machine's GPU can have."""
    free, total = torch.cuda.mem_get_info()
    source = (
        f"what was free of the GPU's {total / 1e9:.3g} GB, and this process, whose tensors held "
        f"at most {torch.cuda.max_memory_allocated() / 1e6:.0f} MB"
    )
    return Figure(float(free + torch.cuda.memory_reserved()), "B", "measured", source)


def _power(power: Drawn, watts: float, like: Profile) -> Figure:
    """Return the watts of computing: as the system reports them, as they are given, or assumed."""
    if power.watts:
        parts = ", ".join(f"{part} {drew:.3g} W" for part, drew in power.watts.items())
        if watts:
            log.info("--watts is left out: this system reports %s", parts)
        source = f"reported while the steps were timed: {parts}; not the rest of the machine"
        return Figure(power.total, "W", "measured", source)
    if watts:
        return Figure(watts, "W", "assumed", "given by who measured the steps")
    source = f"as of {like.name}: this system reports no power; measure it and fill it in"
    return Figure(like["compute-power"], "W", "assumed", source)


def as_toml(profile: Profile) -> dict[str, Any]:
    """Return a profile as its file has it."""
    figures = {name: asdict(figure) for name, figure in profile.figures.items()}
    return {"name": profile.name, "about": profile.about} | figures
