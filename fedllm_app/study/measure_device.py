"""Time this machine on a real training step, and write it down as a class of devices.

Measured are FLOP/s (those of `models/flops.py` over the seconds of the steps that a run takes) and,
where the system says how much energy it has used, watts. All other figures are those of a class
that is named, marked as assumed.
"""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil

from fedllm_app.client.gradient import Batch
from fedllm_app.client.kept import Kept
from fedllm_app.client.settings import ClientSettings
from fedllm_app.client.train import Device, train
from fedllm_app.config import RunConfig
from fedllm_app.core.job import Job
from fedllm_app.core.plan import ClientPlan
from fedllm_app.core.progress import duration
from fedllm_app.devices.profile import Figure, Profile
from fedllm_app.models.flops import step_cost
from fedllm_app.parts import Parts
from fedllm_app.place import Place

log = logging.getLogger("fedllm")
# Linux counts the microjoules of a processor here (Intel's RAPL, AMD's too).
ENERGY = Path("/sys/class/powercap")
FEWEST, MOST = 3, 1000  # steps that are timed


def measured_profile(
    config: RunConfig, name: str, like: Profile, seconds: float = 20.0, watts: float = 0.0
) -> Profile:
    """Return this machine as a class of devices.

    Parameters
    ----------
    config : whose model, data and batch the step has.
    like : the class that what is not measured is taken from.
    seconds : for how long steps are timed, after a first one.
    watts : what the machine draws while it trains, as its owner knows; 0: not known.
    """
    parts = Parts(config, Place.of(config))
    client, _ = max(parts.counts().items(), key=lambda pair: pair[1])
    with TemporaryDirectory(prefix="fedllm-") as folder:
        device = parts.device(Path(folder))
        batch = next(iter(device.batches(client, config.client.batch, np.random.default_rng(0))))
        rows = len(next(iter(batch.values())))
        FLOPs = step_cost(parts.model, batch, parts.task.loss).flops() * rows
        first = _steps(device, client, batch, 1)
        count = min(MOST, max(FEWEST, math.ceil(seconds / first)))
        log.info("timing %d steps of %.3g FLOP, about %s", count, FLOPs, duration(count * first))
        joules, began = _joules(), time.monotonic()
        took = _steps(device, client, batch, count)
        drawn = _power(joules, _joules(), time.monotonic() - began)
    what = f"{count} steps of {config.model.source}, {rows} rows each, in {took:.3g} s"
    found = {
        figure: Figure(own.value, own.unit, "assumed", f"as of {like.name}, not measured here")
        for figure, own in like.figures.items()
    }
    found["flops"] = Figure(FLOPs * count / took, "FLOP/s", "measured", what)
    memory = psutil.virtual_memory().available + psutil.Process().memory_info().rss
    used = psutil.Process().memory_info().rss / 1e6
    source = f"what was free for it; the process of this run held {used:.0f} MB"
    found["memory"] = Figure(float(memory), "B", "measured", source)
    if drawn:
        found["compute-power"] = Figure(
            drawn, "W", "measured", "the system's count of energy while the steps were timed"
        )
    elif watts:
        found["compute-power"] = Figure(watts, "W", "assumed", "given by who measured the steps")
    return Profile(name, f"measured here: {config.model.source}", found)


def _steps(device: Device, client: str, batch: Batch, count: int) -> float:
    """Return the seconds in which a client takes so many local steps on one batch."""
    plain = {"steps": count, "keep_optimizer": False, "rule": ClientSettings().rule}
    device = replace(
        device, settings=device.settings.model_copy(update=plain), stream=None,
        batches=lambda *_: iter([batch] * count),
    )  # fmt: skip
    device.model.load(device.initial)
    return train(device, Job(1, client), ClientPlan(), None, Kept(), {}).metrics.train_s


def _joules() -> dict[str, float]:
    """Return the joules that each processor has used so far, {} where the system does not say."""
    found = {}
    for counter in sorted(ENERGY.glob("*-rapl:[0-9]/energy_uj")):
        try:
            found[counter.parent.name] = int(counter.read_text()) / 1e6
        except (OSError, ValueError):  # it is there, and only root may read it
            continue
    return found


def _power(before: Mapping[str, float], after: Mapping[str, float], seconds: float) -> float:
    """Return the watts between two readings; 0 if a counter is missing or began anew."""
    used = [after[name] - joules for name, joules in before.items() if name in after]
    return sum(used) / seconds if used and min(used) >= 0 else 0.0


def as_toml(profile: Profile) -> dict[str, Any]:
    """Return a profile as its file has it."""
    figures = {
        name: {"value": f.value, "unit": f.unit, "kind": f.kind, "source": f.source}
        for name, f in profile.figures.items()
    }
    return {"name": profile.name, "about": profile.about} | figures
