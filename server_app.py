"""The ServerApp: read the run-config, run or resume the strategy, write the result.

Loaded in a moment: torch and its like are imported once workers do so, too (flower/waking.py).
"""

import logging
import os
import sys
import time
from functools import partial

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedllm_app.config import RunConfig
from fedllm_app.flower.telling import in_one_sentence
from fedllm_app.flower.waking import without_gc

app = ServerApp()
WAKE_S = 30.0  # a start without its workers' answer is a slow one, nothing worse


def wake_workers(grid: Grid) -> None:
    """Let a simulation's workers import what they need; return when the first has begun."""
    deadline, asked = time.monotonic() + WAKE_S, list[str]()
    while time.monotonic() < deadline:
        if not asked:
            for node in sorted(grid.get_node_ids())[: os.cpu_count()]:
                call = Message(RecordDict(), dst_node_id=node, message_type="query.wake", ttl=60.0)
                asked += [i for i in grid.push_messages([call]) if i]
        elif any(True for _ in grid.pull_messages(asked)):
            return
        time.sleep(0.05)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation to its end."""
    logger = logging.getLogger("fedllm")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [logging.StreamHandler(sys.stdout)]
    in_one_sentence(bool(context.run_config.get("run.verbose")))
    config = RunConfig.parse(context.run_config)
    devices = config.data.train == "node"
    if not devices:
        wake_workers(grid)
    with without_gc():
        from fedllm_app.ending import finish_run
        from fedllm_app.flower.strategy import FedSparse
        from fedllm_app.opening import opening_of
        from fedllm_app.parts import Parts
        from fedllm_app.place import Place
        from fedllm_app.play import build_loop, opened_run
        from fedllm_app.report.page import print_summary

    with opened_run(config) as (resolved, folder):
        parts = Parts(resolved, Place.of(resolved))
        if resolved.run.verbose:
            logger.info(config.summary(resolved))
        begins = partial(opening_of, parts, folder)
        strategy = FedSparse(
            build=lambda transport: build_loop(parts, folder, transport),
            wait_for=min(resolved.round.cohort, resolved.round.at_once) if devices else 1,
            devices=devices,
            begins=begins,
        )
        strategy.start(grid)
        finish_run(parts, folder, strategy.loop(grid))
        print_summary(folder)
