"""A round between its plan and its step.

Shapes: P trainable parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedllm_app.core.job import Request
from fedllm_app.core.plan import PARAMS
from fedllm_app.run.budget import Cost
from fedllm_app.run.clock import Clock
from fedllm_app.run.ledger import Ledger
from fedllm_app.server.intake import Intake
from fedllm_app.server.planning import Planned
from fedllm_app.wire.codec import dense_bytes, size_of


@dataclass(frozen=True)
class OpenRound:
    """A round between its plan and its step."""

    planned: Planned
    requests: Sequence[Request]
    downloads: Mapping[str, np.ndarray]
    intake: Intake
    clock: Clock
    bound: Cost
    clients: Mapping[str, int]

    @property
    def t(self) -> int:
        """The round."""
        return self.planned.inputs.job


def record_downloads(ledger: Ledger, opened: OpenRound, P: int) -> None:
    """Put down every client's download; the clients of a group receive the same bytes."""
    dense = dense_bytes(P)
    for request in opened.requests:
        for name, payload in request.vectors.items():
            size = size_of(payload)
            for job in request.jobs:
                ledger.record(
                    opened.t, job.client, request.group, "down",
                    size.header, size.positions, size.values,
                    dense if name == PARAMS else 0, vector=name,
                )  # fmt: skip
