"""Who measures the model client by client: the server, or each device on what it holds out.

The loop asks an evaluator and knows no more of it. Both kinds measure the model that devices would
receive next, and have their numbers recorded in the same way.

Shapes: P trainable parameters.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from fedllm_app.core.errors import WireError
from fedllm_app.core.job import Job, Measurement
from fedllm_app.core.plan import PARAMS
from fedllm_app.core.state import RunState
from fedllm_app.core.units import format_bytes
from fedllm_app.data.users import in_order
from fedllm_app.run.ledger import EVALUATION, Ledger
from fedllm_app.server.limits import Limits
from fedllm_app.server.planning import Serving
from fedllm_app.server.transport import Transport
from fedllm_app.tasks.base import Tally
from fedllm_app.tasks.by_client import Tallies
from fedllm_app.wire.codec import dense_bytes, size_of

log = logging.getLogger("fedllm")
Serve = Callable[[], Serving]
Told = Callable[[Tallies, Mapping[str, int]], None]
NO_ANSWER = Measurement("", error="no answer within round.timeout-s", reason="late")


class Evaluator(Protocol):
    """Measures the model that devices would receive next."""

    def wait(self) -> None:
        """Return when those that are measured before round 1 are there."""

    def measure(self, state: RunState, serve: Serve) -> dict[str, float]:
        """Return the metrics of the model, headline first, or {} without test data.

        What single clients measure is recorded beside them.

        Parameters
        ----------
        serve : returns the model.
        """

    def asked(self) -> int:
        """Return how many devices the next evaluation sends the model to."""


@dataclass
class Here:
    """Measures in the server's process, on examples that it has.

    Attributes
    ----------
    evaluate : metrics of a flat vector on all test examples, None without any.
    by_client : measures a flat vector client by client and records it, None where nobody asks.
    """

    evaluate: Callable[[np.ndarray], dict[str, float]] | None = None
    by_client: Callable[[np.ndarray], None] | None = None

    def wait(self) -> None:
        """Return at once."""

    def measure(self, state: RunState, serve: Serve) -> dict[str, float]:
        """Return the metrics, and measure clients one by one."""
        if not self.evaluate and not self.by_client:
            return {}
        values_P = serve().values
        if self.by_client:
            self.by_client(values_P)
        return self.evaluate(values_P) if self.evaluate else {}

    def asked(self) -> int:
        """Return 0: nothing is sent."""
        return 0


@dataclass
class OnDevices:
    """Asks devices to measure the model on what they hold out, and takes nothing but sums.

    A device that fails, is late or sends what cannot be is left out, counted and named.

    Attributes
    ----------
    evaluate : metrics of a flat vector on the server's own test examples, None without any.
    transport, ledger, limits : of the run.
    most : devices of each kind that are asked.
    kind_of : the kind of clients that a device is of, by its name.
    checked : the sums of a device that holds out so many examples; WireError if they cannot be.
    told : records them.
    """

    evaluate: Callable[[np.ndarray], dict[str, float]] | None
    transport: Transport
    ledger: Ledger
    limits: Limits
    most: int
    kind_of: Callable[[str], str]
    checked: Callable[[Mapping[str, Any], int], Tally]
    told: Told

    def wait(self) -> None:
        """Return when the devices that the first round waits for are there."""
        self.transport.clients()

    def asked(self) -> int:
        """Return how many devices are there to be asked."""
        return len(self._chosen(self.transport.held()))

    def measure(self, state: RunState, serve: Serve) -> dict[str, float]:
        """Return the metrics of the server, and have devices measure the model, too."""
        serving = serve()
        self._ask(state, serving)
        return self.evaluate(serving.values) if self.evaluate else {}

    def _ask(self, state: RunState, serving: Serving) -> None:
        """Ask, wait, check and record."""
        held = self.transport.held()
        chosen = self._chosen(held)
        if not chosen:
            log.warning("round %d: no device is there that holds out examples", state.round)
            return
        tallies: dict[str, list[tuple[str, Tally]]] = {kind: [] for kind in chosen.values()}
        dropped: Counter[str] = Counter()
        answers = self._answers(state, serving, sorted(chosen))
        for client, kind in chosen.items():
            answer = answers.get(client, NO_ANSWER)
            try:
                if answer.error:
                    raise WireError(answer.error, answer.reason)
                tallies[kind].append((client, self.checked(answer.sums, held[client])))
            except WireError as error:
                dropped[error.reason] += 1
                log.warning(
                    "client %s, round %d: not measured (%s): %s",
                    client, state.round, error.reason, error,
                )  # fmt: skip
        self.told(tallies, dropped)

    def _answers(
        self, state: RunState, serving: Serving, asked: Sequence[str]
    ) -> dict[str, Measurement]:
        """Send the model to devices, and return what came back in time, by client."""
        payload, most = serving.request.vectors[PARAMS], self.limits.round.max_down_bytes
        needed, left = payload.size * len(asked), most - self.ledger.totals.down_bytes
        if most and needed > left:
            why = (
                f"the model for all devices has {format_bytes(needed)}, and round.max-down-bytes "
                f"leaves {format_bytes(max(0, left))}"
            )
            return {client: Measurement(client, error=why) for client in asked}
        size = size_of(payload)
        for client in asked:
            self.ledger.record(
                state.round, client, serving.request.group, "down",
                size.header, size.positions, size.values,
                dense_bytes(serving.values.size), vector=EVALUATION,
            )  # fmt: skip
        request = replace(serving.request, jobs=tuple(Job(state.round, c) for c in asked))
        found = self.transport.measure(request, self.limits.evaluation_s(state))
        return {answer.client: answer for answer in found}

    def _chosen(self, held: Mapping[str, int]) -> dict[str, str]:
        """Return the kind of each device that is asked, by client: always the same ones."""
        names = sorted(client for client, number in held.items() if number)
        by_kind: dict[str, list[str]] = {}
        for i in in_order(names):
            by_kind.setdefault(self.kind_of(names[i]), []).append(names[i])
        return {c: kind for kind, own in sorted(by_kind.items()) for c in sorted(own[: self.most])}
