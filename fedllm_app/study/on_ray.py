"""Where the runs of a sweep are played: on the machines of a Ray cluster.

Every machine of the cluster has this package, and the same folder for the runs. A run has a worker
process of its own with one processor, which ends with it.
"""

import os
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedllm_app.config import RunConfig
from fedllm_app.core.settings import Scalar
from fedllm_app.deploy.superlink import ON_LOOPBACK
from fedllm_app.study.crew import Crew, Ended, play_into, stopping

LOCAL = "local"
STORE_BYTES = 100 << 20  # runs exchange nothing: Ray takes a third of the memory otherwise


class RayTasks:
    """Tasks of Ray, a worker process for each.

    Parameters
    ----------
    ray : the module, connected.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._at_work: dict[Any, tuple[str, float]] = {}
        self._play = ray.remote(num_cpus=1, max_calls=1, max_retries=0)(_play)

    def start(self, name: str, config: RunConfig, log: Path) -> None:
        """Start a task; it waits for a free processor."""
        task = self._play.remote(config.flat(), str(log))
        self._at_work[task] = name, time.monotonic()

    def ended(self) -> list[Ended]:
        """Wait for the end of a task."""
        over, _ = self._ray.wait([*self._at_work], num_returns=1)
        ended = []
        for task in over:
            name, began = self._at_work.pop(task)
            try:
                played = self._ray.get(task)
            except self._ray.exceptions.RayError:  # its process or its machine is gone
                played = False
            ended.append(Ended(name, time.monotonic() - began, played))
        return ended

    def stop(self) -> None:
        """End what is at work."""
        for task in self._at_work:
            self._ray.cancel(task, force=True)
        self._ray.shutdown()


@contextmanager
def on_ray(address: str, workers: int) -> Iterator[Crew]:
    """Yield a Ray cluster; whatever ends the block ends the tasks at work.

    Parameters
    ----------
    address : of a running cluster, as host:port, or "local" for one that is started here for so
        many workers, listens on loopback and ends with the block.
    """
    own: dict[str, Any] = {}
    if address == LOCAL:
        os.environ.setdefault(*ON_LOOPBACK)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        own = {"num_cpus": workers, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    import ray  # which reads the environment as it is imported

    ray.init(address, log_to_driver=False, **own)
    crew = RayTasks(ray)
    with stopping(crew.stop):
        yield crew


def _play(settings: Mapping[str, Scalar], log: str) -> bool:
    """Play a run in this worker, and say whether it was played to its end."""
    try:
        play_into(RunConfig.parse(settings), Path(log))
    except Exception:
        with Path(log).open("a") as file:  # its last line is the reason
            traceback.print_exc(file=file)
        return False
    return True
