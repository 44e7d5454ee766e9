"""Algorithm 1 as a Flower strategy.

`start` runs the loop of server/loop.py over the transport of flower/transport.py. It is the one way
in: a strategy driven by hand would skip budgets, time-outs and resume.
"""

import logging
from collections.abc import Callable, Iterable

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedllm_app.flower.limits import check_payloads
from fedllm_app.flower.transport import FlowerTransport
from fedllm_app.server.loop import Loop

log = logging.getLogger("fedllm")
BY_HAND = "FedSparse plays its rounds itself; call start(grid)"


class FedSparse(Strategy):
    """FedOpt with sparse traffic: one Flower strategy for every plan.

    Parameters
    ----------
    build : makes the loop over a transport.
    wait_for, devices : of the transport.
    begins : what the run's log begins with, of the loop.
    """

    def __init__(
        self,
        build: Callable[[FlowerTransport], Loop],
        wait_for: int,
        devices: bool,
        begins: Callable[[Loop], str],
    ) -> None:
        self._build, self._begins = build, begins
        self._wait_for, self._devices = wait_for, devices
        self._loop: Loop | None = None

    def summary(self) -> None:
        """Log what the run is, before round 1."""
        if self._loop is not None:
            log.info(self._begins(self._loop))

    def loop(self, grid: Grid) -> Loop:
        """Return the loop over this grid, built at the first call."""
        if self._loop is None:
            self._loop = self._build(FlowerTransport(grid, self._wait_for, self._devices))
        return self._loop

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int = 0,
        timeout: float = 0,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the loop to its end; parameters and rounds are the run-config's.

        Raises
        ------
        ConfigError
            If a payload is more than Flower carries to a device.
        """
        loop = self.loop(grid)
        self.summary()
        if self._devices:
            check_payloads(loop)
        loop.play()
        result = Result()
        result.arrays = arrays_of(loop.optimizer.params)
        metrics = MetricRecord(dict(loop.state.evaluation))
        result.evaluate_metrics_serverapp = {loop.state.round: metrics}
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Refuse: rounds played by hand would have no budget, no time-out and no resume."""
        raise NotImplementedError(BY_HAND)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Refuse, as `configure_train` does."""
        raise NotImplementedError(BY_HAND)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask no client: the loop asks devices itself (server/measuring.py)."""
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the server's latest evaluation."""
        return MetricRecord(dict(self._loop.state.evaluation)) if self._loop else None


def arrays_of(params_P: np.ndarray) -> ArrayRecord:
    """Return the flat parameters as one float32 Array."""
    return ArrayRecord({"params": Array(params_P)})
