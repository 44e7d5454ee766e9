"""The ServerApp: read the run-config, run or resume the strategy, write the result."""

import logging
import sys

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedllm_app.config import RunConfig
from fedllm_app.parts import Parts, Place
from fedllm_app.report.page import print_summary
from fedllm_app.runtime import build_loop, finish_run, opened_run
from fedllm_app.server.strategy import FedSparse

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation to its end."""
    logger = logging.getLogger("fedllm")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [logging.StreamHandler(sys.stdout)]
    config = RunConfig.parse(context.run_config)
    with opened_run(config) as (resolved, folder):
        parts = Parts(resolved, Place.of(resolved))
        devices = resolved.data.train == "node"
        strategy = FedSparse(
            build=lambda transport: build_loop(parts, folder, transport),
            wait_for=resolved.round.clients if devices else 1,
            devices=devices,
            summary_text=config.summary(resolved),
        )
        strategy.start(grid)
        finish_run(parts, folder, strategy.loop(grid))
        print_summary(folder)
