"""How each client fares in an evaluation: its metrics, and how they are spread over clients.

A metric of a client is made of the client's own sums. The weighted mean is made of the sums of all
clients together, so that it is that of their examples, and no average of averages.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedllm_app.tasks.base import Tally, Task, add_tallies

Tallies = Mapping[str, Sequence[tuple[str, Tally]]]  # of each client, by kind of clients
PERCENTILES = {"p10": 10, "p90": 90}


def client_rows(task: Task, tallies: Tallies) -> list[dict[str, Any]]:
    """Return one row for each client that has something to be measured on."""
    return [
        {"clients": kind, "client": client, task.unit: int(tally["units"])} | task.metrics(tally)
        for kind, measured in tallies.items()
        for client, tally in measured
        if tally.get("units", 0) >= 1
    ]


def spread(task: Task, tallies: Tallies) -> dict[str, dict[str, Any]]:
    """Return, by kind of clients, how many there are and how each metric is spread over them.

    `mean` counts every client alike, `weighted` every unit, `p10` and `p90` are percentiles of the
    clients, interpolated linearly.
    """
    found: dict[str, dict[str, Any]] = {}
    for kind, measured in tallies.items():
        having = [tally for _, tally in measured if tally.get("units", 0) >= 1]
        if not having:
            continue
        each = [task.metrics(tally) for tally in having]
        found[kind] = {"clients": len(having)}
        for name, total in task.metrics(add_tallies(having)).items():
            values = np.array([metrics[name] for metrics in each], np.float64)
            found[kind][name] = {"mean": float(values.mean()), "weighted": total} | {
                word: float(np.percentile(values, q)) for word, q in PERCENTILES.items()
            }
    return found
