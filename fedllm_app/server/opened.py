"""A round between its plan and its step.

Shapes: P trainable parameters.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fedllm_app.core.job import Request
from fedllm_app.core.plan import PARAMS
from fedllm_app.core.state import RunState
from fedllm_app.devices.meter import Usage, total
from fedllm_app.run.budget import Cost
from fedllm_app.run.clock import Clock
from fedllm_app.run.ledger import Ledger
from fedllm_app.run.record import Outcome
from fedllm_app.server.asked import Key, still_open
from fedllm_app.server.intake import Intake
from fedllm_app.server.optimizer import ServerOptimizer
from fedllm_app.server.planning import Planned
from fedllm_app.wire.codec import dense_bytes, size_of


@dataclass
class OpenRound:
    """A round between its plan and its step.

    Attributes
    ----------
    planned : its plan.
    intake : takes the replies.
    clock : of its parts.
    clients : examples of each client that was there when it began.
    bound : the most that it can cost, once its first jobs were given.
    downloads : what clients may hold after it.
    refused : the budget that no further job fits into, or "".
    used : what each simulated device used in it, once it closes.
    """

    planned: Planned
    intake: Intake
    clock: Clock
    clients: Mapping[str, int]
    bound: Cost | None = None
    downloads: Mapping[str, np.ndarray] = field(default_factory=dict)
    refused: str = ""
    used: Mapping[str, Usage] = field(default_factory=dict)

    @property
    def t(self) -> int:
        """The round."""
        return self.planned.inputs.job

    def outcome(
        self,
        norm: float | None,
        evaluation: Mapping[str, float],
        lasted_s: float | None,
        ages: bool,
        ended: Sequence[str],
        curves: Mapping[str, float],
    ) -> Outcome:
        """Return what came of it, for the record; `ages`: with the staleness of its replies."""
        intake = self.intake
        return Outcome(
            intake.accepted, intake.dropped, intake.train_loss(), norm, evaluation, lasted_s,
            intake.failed, intake.clip.clipped, intake.clip.limit(PARAMS),
            [*intake.ages.values()] if ages else None, ended, curves,
            {client: one.record() for client, one in self.used.items()},
        )  # fmt: skip

    def curves(self, norm: float | None, optimizer: ServerOptimizer) -> dict[str, float]:
        """Return norms, and how far the updates agree; {} where the server took no step."""
        if norm is None:
            return {}
        cosine = self.intake.agreement()
        return optimizer.norms() | ({} if cosine is None else {"cosine": cosine})

    def closed(self, state: RunState, now: float, most: Callable[[int], int]) -> RunState:
        """Return the state after its step with what it spent, dropped and leaves open.

        Parameters
        ----------
        now : simulated seconds at its end.
        most : units that a job on so many examples can see.
        """
        intake = self.intake
        spent = replace(state.spent, simulated_s=now, units=state.spent.units + self.units(most))
        used = total(self.used.values())
        return replace(
            state,
            pending=intake.outstanding(state.pending),
            norms=intake.clip.norms(),
            spent=replace(
                spent,
                flops=spent.flops + used.flops,
                compute_s=spent.compute_s + used.compute_s,
                energy_j=spent.energy_j + used.energy_j,
            ),
            open=still_open(intake.open.values()),
            dropped=dict(Counter(state.dropped) + intake.dropped),
        )

    def units(self, most: Callable[[int], int]) -> int:
        """Return what accepted replies were trained on; `most` for a number of examples."""
        return self.intake.units(lambda client: most(self.clients.get(client, 1)))


def advanced(state: RunState, intake: Intake) -> RunState:
    """Return the state with what clients used in jobs that were accepted in the open round.

    A job that is given within the round goes on from there, as one of the next round does.
    """
    progress = dict(state.progress)
    for key in intake.accepted:
        client = key[1]
        progress[client] = progress.get(client, 0) + intake.rows[key]
    return replace(state, accepted={**state.accepted, **intake.jobs}, progress=progress)


def record_downloads(ledger: Ledger, t: int, requests: Sequence[Request], P: int) -> None:
    """Put down every client's download; the clients of a group receive the same bytes."""
    dense = dense_bytes(P)
    for request in requests:
        for name, payload in request.vectors.items():
            size = size_of(payload)
            for job in request.jobs:
                ledger.record(
                    t, job.client, request.group, "down",
                    size.header, size.positions, size.values,
                    dense if name == PARAMS else 0, vector=name,
                )  # fmt: skip


def unfounded(state: RunState, intake: Intake) -> list[Key]:
    """Return the open jobs that go on from a reply which the server did not use after all.

    A client has one job at a time, so that its open job goes on from its last accepted one.
    """
    last = state.accepted
    return [k for k, one in intake.open.items() if one.job.state_from != last.get(k[1], -1)]


def wasted(dropped: Mapping[str, int], open: int) -> str:
    """Say what was asked for in vain, dropped replies and jobs open at the end, or ""."""
    each = sorted(dropped.items(), key=lambda pair: (-pair[1], pair[0]))
    found = [*each, ("open at the end", open)] if open else each
    listed = ", ".join(f"{count:,} {reason}" for reason, count in found)
    return f"updates that were asked for and not counted: {listed}" if listed else ""
