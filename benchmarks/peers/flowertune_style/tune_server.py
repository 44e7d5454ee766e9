"""Dense FedAvg over the adapters, one Array for each tensor."""

import json
import time
from pathlib import Path

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from peft import get_peft_model_state_dict
from tune_model import build

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Play as many rounds as there are cohorts; every node plays one client of each."""
    config = context.run_config
    times = Path(str(config["times"]))
    cohorts = json.loads(Path(str(config["cohorts"])).read_text())
    size = len(cohorts[0])

    def note(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        with times.open("a") as file:
            file.write(json.dumps({"round": server_round, "time": time.time()}) + "\n")
        return None

    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=size, min_available_nodes=size)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(get_peft_model_state_dict(build(config))),
        num_rounds=len(cohorts),
        evaluate_fn=note,
    )
