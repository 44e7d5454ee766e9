"""What a model that came is worth on the examples that a client holds out.

The answer is the sums of the task's metrics and their denominators: no example, no prediction and
no parameter leaves the device.

Shapes: P trainable parameters.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedllm_app.client.answer import check_layout, received
from fedllm_app.client.kept import Kept
from fedllm_app.client.train import Device
from fedllm_app.core.errors import WireError
from fedllm_app.core.holding import device_copy
from fedllm_app.core.job import Measurement, Request
from fedllm_app.core.plan import ClientPlan


def measure(device: Device, request: Request) -> list[Measurement]:
    """Return what each client of a request measures; one that fails does not touch the others."""
    found: list[Measurement] = []
    try:
        device.model.load(served(device, request))
    except WireError as error:
        return [Measurement(j.client, {}, str(error), error.reason) for j in request.jobs]
    for job in request.jobs:
        try:
            found.append(Measurement(job.client, plain(device.tally(job.client))))
        except Exception as error:  # whatever data, model or torch raise, the others go on
            why = f"{type(error).__name__}: {error}"
            found.append(Measurement(job.client, error=why))
    return found


def served(device: Device, request: Request) -> np.ndarray:
    """Return the model that a request brought, float32 of shape (P,).

    Raises
    ------
    WireError
        If the payload is malformed, or of another layout or base.
    """
    check_layout(request, device.model.layout)
    plan = ClientPlan.from_json(request.plan)
    update = received(device, request, plan, Kept()).update
    return device_copy(plan, update.positions, update.values, device.initial)


def plain(tally: Mapping[str, Any]) -> dict[str, Any]:
    """Return sums as JSON has them: int, float, or a list of int."""
    return {name: np.asarray(value).tolist() for name, value in tally.items()}
