"""FedAvg over one array of ten numbers; the end of every round is written to a file."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Play the rounds."""
    config = context.run_config
    times, clients = Path(str(config["times"])), int(config["clients"])

    def note(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        with times.open("a") as file:
            file.write(json.dumps({"round": server_round, "time": time.time()}) + "\n")
        return None

    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros(10, np.float32)]),
        num_rounds=int(config["rounds"]),
        evaluate_fn=note,
    )
