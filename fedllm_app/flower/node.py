"""What a node does when it is asked: the ClientApp without Flower.

Ray's workers live for a whole run, so the model and the data are built once per process and only
the trainable values change from client to client.
"""

import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedllm_app.client.answer import answer
from fedllm_app.client.measure import measure
from fedllm_app.client.train import Device
from fedllm_app.config import RunConfig
from fedllm_app.core.extend import allow
from fedllm_app.core.job import Measurement, Reply, Request
from fedllm_app.core.settings import Scalar
from fedllm_app.flower.message import Holdings
from fedllm_app.parts import Parts
from fedllm_app.place import Place, named

OWN_KEYS = {"client-id", "data-path", "allow-modules", "allow-models"}  # of a device alone


@lru_cache(maxsize=1)
def _parts(config: RunConfig, place: Place) -> Parts:
    return Parts(config, place)


@lru_cache(maxsize=1)
def _device(config: RunConfig, place: Place, run_folder: Path) -> Device:
    return _parts(config, place).device(run_folder)


def _of(
    run_config: Mapping[str, Scalar], node_config: Mapping[str, Any]
) -> tuple[RunConfig, Place]:
    simulated = in_simulation() and not OWN_KEYS & node_config.keys()
    # First: a run-config may name modules to import.
    allow(None if simulated else named(node_config, "allow-modules"))
    config = RunConfig.parse(run_config)
    return config, Place.of(config, None if simulated else node_config)


def in_simulation() -> bool:
    """Say whether this process is a worker of Flower's simulation; whatever else asks is a device.

    A node-config cannot say so: Flower's own examples give a SuperNode the keys of a simulated
    node. A worker is an actor of Ray, and a SuperNode starts none.
    """
    ray = sys.modules.get("ray")  # a device has no Ray, or has not imported it
    if ray is None or not ray.is_initialized():
        return False
    return ray.get_runtime_context().get_actor_id() is not None


def holdings(run_config: Mapping[str, Scalar], node_config: Mapping[str, Any]) -> Holdings:
    """Return which clients this node plays."""
    config, place = _of(run_config, node_config)
    simulated = 0 if place.client else int(node_config.get("num-partitions", 1))
    counts, own = _parts(config, place).counts(), str(node_config.get("device-class", ""))
    profiles: dict[str, dict[str, float | str]] = {}
    if place.client and own:
        profiles = {place.client: {"class": own}}
    return Holdings(dict(counts), simulated, profiles, dict(_parts(config, place).held()))


def train(
    request: Request, run_config: Mapping[str, Scalar], node_config: Mapping[str, Any], run_id: int
) -> list[Reply]:
    """Do the jobs of a request."""
    return answer(_own_device(run_config, node_config, run_id), request)


def evaluate(
    request: Request, run_config: Mapping[str, Scalar], node_config: Mapping[str, Any], run_id: int
) -> list[Measurement]:
    """Measure the model of a request on what the clients of its jobs hold out."""
    return measure(_own_device(run_config, node_config, run_id), request)


def _own_device(
    run_config: Mapping[str, Scalar], node_config: Mapping[str, Any], run_id: int
) -> Device:
    config, place = _of(run_config, node_config)
    run_folder = place.home / "runs" / (config.run.name or str(run_id))
    return _device(config, place, run_folder)
