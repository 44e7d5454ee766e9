"""A run's folder while it is written: metrics, ledger, timing, checkpoints. It records, no more.

<home>/runs/<name>/ holds config.toml, metrics.jsonl, ledger.jsonl, timing.jsonl, checkpoints/,
tensorboard/, clients.jsonl where clients are measured one by one, and devices.jsonl where devices
are simulated. When a run goes on, the files are cut back to its checkpoint, so that what follows
leaves the same bytes as if nothing had happened (timing.jsonl apart: wall-clock).
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from fedllm_app.core.job import TrainMetrics
from fedllm_app.core.progress import duration
from fedllm_app.core.state import RunState
from fedllm_app.core.units import format_seconds
from fedllm_app.run.by_client import ByClient
from fedllm_app.run.checkpoint import save_state
from fedllm_app.run.clock import Clock
from fedllm_app.run.ledger import Ledger, Totals
from fedllm_app.run.metrics import Board, JsonLines, read_lines, versions

log = logging.getLogger("fedllm")
MOST_WORDS = 200  # of why a reply was dropped, in characters
Job = tuple[int, str]  # its id and its client


@dataclass(frozen=True)
class Outcome:
    """What came of one round.

    Attributes
    ----------
    accepted : metrics of each job, by its id and client, whose update is in the mean.
    dropped : count of drops by reason.
    train_loss : mean over units, None without any.
    update_norm : of the mean change, None where the server took no step.
    evaluation : metrics where they are due, headline first.
    simulated_s : how long the round lasts over the links of `network`, None without a clock.
    failed : of each job whose reply was dropped, the reason and why.
    clipped : of each job that was above the bound of `round.clip`, how many times above it was.
    bound : of the norm of an update, None without one.
    staleness : of each accepted reply, how many steps the server took since its model; None where
        no job outlives its round.
    ended : clients whose stream holds no further job after this round, and held one before it.
    curves : further numbers of a round in which the server took a step, by name.
    used : what each simulated device used, as devices.jsonl has it, by client.
    """

    accepted: Mapping[Job, TrainMetrics] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    train_loss: float | None = None
    update_norm: float | None = None
    evaluation: Mapping[str, float] = field(default_factory=dict)
    simulated_s: float | None = None
    failed: Mapping[Job, tuple[str, str]] = field(default_factory=dict)
    clipped: Mapping[Job, float] = field(default_factory=dict)
    bound: float | None = None
    staleness: Sequence[int] | None = None
    ended: Sequence[str] = ()
    curves: Mapping[str, float] = field(default_factory=dict)
    used: Mapping[str, Mapping[str, float | str]] = field(default_factory=dict)


class Recorder:
    """Writes a run's folder.

    Parameters
    ----------
    folder : the run's; held under a lock by the caller.
    state : of the checkpoint that the run continues from; None begins the files anew.
    rounds, checkpoint_every : of the run.
    base_client_bytes : what a device downloads once for the frozen base.
    unit : what the task counts, "examples" or "tokens".
    devices : simulated devices use seconds and joules, which devices.jsonl has by client.
    population : clients with examples in a simulation; 0 where devices come and go.
    """

    def __init__(
        self,
        folder: Path,
        state: RunState | None,
        rounds: int,
        checkpoint_every: int,
        base_client_bytes: int,
        unit: str = "examples",
        devices: bool = False,
        population: int = 0,
    ) -> None:
        self.unit, self.population = unit, population
        self.folder, self.rounds, self.every = folder, rounds, checkpoint_every
        round_ = state.round if state else -1
        self.metrics = JsonLines(folder / "metrics.jsonl")
        self.timing = JsonLines(folder / "timing.jsonl")
        self.devices = JsonLines(folder / "devices.jsonl") if devices else None
        for file in self._files():
            file.cut_back(round_)
        totals = Totals.from_dict(dict(state.totals)) if state and state.totals else Totals()
        self.ledger = Ledger.resume(folder / "ledger.jsonl", round_, totals, base_client_bytes)
        self.by_client = ByClient(folder, round_)
        self.board = Board(folder / "tensorboard", round_ if state else None)
        self._saved = round_  # after which round the newest checkpoint is
        self._began = time.monotonic()
        self.begin_rounds(max(round_, 0))

    def begin(self, headline: str, evaluation: Mapping[str, float]) -> None:
        """Write the evaluation before round 1."""
        record: dict[str, object] = {"round": 0, "headline": headline}
        record |= {"evaluation": dict(evaluation)} | self.by_client.close(0)
        self.metrics.append(record | ({"population": self.population} if self.population else {}))
        self.timing.append({"round": 0, "versions": versions()})
        self.board.scalars(0, record)

    def begin_rounds(self, round_: int) -> None:
        """Start the clock that the estimate of the remaining time is taken from."""
        self._rounds_began, self._first_round = time.monotonic(), round_ + 1

    def end_round(self, state: RunState, outcome: Outcome) -> None:
        """Write the lines of a round that has closed."""
        totals = self.ledger.totals
        record: dict[str, object] = {
            "round": state.round,
            "clients": len(outcome.accepted),
            "dropped": dict(outcome.dropped),
            "train-loss": outcome.train_loss,
            "update-norm": outcome.update_norm,
            "up-bytes": totals.up_bytes,
            "down-bytes": totals.down_bytes,
            self.unit: state.spent.units,
        }
        record |= outcome.curves
        if outcome.simulated_s is not None:
            record["simulated-s"] = state.spent.simulated_s
        if self.devices is not None:
            spent = state.spent
            record["flops"], record["compute-s"] = spent.flops, spent.compute_s
            record["energy-j"] = spent.energy_j
            self.devices.extend(
                [{"round": state.round, "client": c, **one} for c, one in outcome.used.items()]
            )
        record |= _of_clients(outcome) | _of_ages(outcome.staleness)
        if outcome.evaluation:
            record["evaluation"] = dict(outcome.evaluation)
        record |= self.by_client.close(state.round)
        self.metrics.append(record)
        self.ledger.end_round()
        self.board.scalars(state.round, record)

    def end_timing(self, state: RunState, outcome: Outcome, clock: Clock) -> None:
        """Write how long a round took, and say how far the run is."""
        seconds = clock.seconds()
        self.timing.append(
            {
                "round": state.round,
                "seconds": seconds,
                "parts": clock.parts,
                "client-train-s": sum(m.train_s for m in outcome.accepted.values()),
            }
            | ({"failures": _why(outcome)} if outcome.failed else {})
        )
        self._log(state, outcome, seconds)

    def checkpoint_due(self, round_: int) -> bool:
        """Say whether a round ends with a checkpoint; the last one always does."""
        return round_ % self.every == 0 or round_ >= self.rounds

    def checkpoint(self, state: RunState, tensors: Mapping[str, Tensor]) -> RunState:
        """Save the state after the last finished round; return it as saved."""
        for file in self._files():
            file.sync()
        self.ledger.sync()
        self.by_client.sync()
        # Written again after the same round, it takes the place of itself, not of the one before.
        earlier = state.earlier if state.round == self._saved else state.saved
        seconds = state.spent.seconds + time.monotonic() - self._began
        written = replace(
            state,
            earlier=earlier,
            totals=self.ledger.totals.to_dict(),
            spent=replace(state.spent, seconds=seconds),
        )
        save_state(self.folder / "checkpoints", written, tensors)
        self._saved = state.round
        return replace(state, saved=dict(state.accepted), earlier=earlier)

    def finish(
        self, state: RunState, evaluation: Mapping[str, float], tensors: Mapping[str, Tensor]
    ) -> None:
        """Write the end of the run: its reason and, where it is new, the last evaluation."""
        measured = self.by_client.close(state.round)
        last: dict[str, object] = {"round": state.round, "evaluation": dict(evaluation)} | measured
        # A run killed between this line and its checkpoint has written it already.
        if (evaluation or measured) and read_lines(self.metrics.path)[-1] != last:
            self.metrics.append(last)
        self.checkpoint(state, tensors)
        self.ledger.close()
        for file in self._files():
            file.close()
        self.board.close()

    def _files(self) -> list[JsonLines]:
        """Return the files that have a line, or lines, for a round, beside the ledger."""
        return [self.metrics, self.timing, *([self.devices] if self.devices else [])]

    def _log(self, state: RunState, outcome: Outcome, seconds: float) -> None:
        """Log one line of progress with an estimate of the rest."""
        left = self.rounds - state.round
        done = max(1, state.round - self._first_round + 1)
        rest = (time.monotonic() - self._rounds_began) / done * left
        words = [f"round {state.round}/{self.rounds}", f"{len(outcome.accepted)} clients"]
        if outcome.train_loss is not None:
            words.append(f"train loss {outcome.train_loss:.3f}")
        words += [f"{name} {value:.4f}" for name, value in list(outcome.evaluation.items())[:2]]
        totals = self.ledger.totals
        words.append(f"up {totals.up_bytes / 1e6:.2f} MB, down {totals.down_bytes / 1e6:.2f} MB")
        if outcome.simulated_s is not None:
            words.append(f"simulated {format_seconds(state.spent.simulated_s)}")
        words.append(
            f"{seconds:.1f} s, about {duration(rest)} left" if left else f"{seconds:.1f} s"
        )
        log.info(", ".join(words))


def _of_clients(outcome: Outcome) -> dict[str, object]:
    """Return what a round's record says of single clients, as lists: they are no curves."""
    words: dict[str, object] = {}
    if outcome.bound is not None:
        words |= {"clip-bound": outcome.bound, "clipped": len(outcome.clipped)}
    if outcome.clipped:
        words["clipped-clients"] = [[c, t] for (_, c), t in sorted(outcome.clipped.items())]
    if outcome.failed:
        failed = sorted(outcome.failed.items())
        words["failed-clients"] = [[c, reason] for (_, c), (reason, _) in failed]
    if outcome.ended:
        words["ended-clients"] = list(outcome.ended)
    return words


def _of_ages(staleness: Sequence[int] | None) -> dict[str, object]:
    """Return mean and largest staleness of a round's replies."""
    if not staleness:
        return {}
    mean = sum(staleness) / len(staleness)
    return {"staleness-mean": mean, "staleness-most": max(staleness)}


def _why(outcome: Outcome) -> dict[str, str]:
    """Return what each client's failure said: words of another machine, outside the promise."""
    return {client: why[:MOST_WORDS] for (_, client), (_, why) in outcome.failed.items()}
