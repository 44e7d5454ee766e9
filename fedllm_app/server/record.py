"""A run's folder while it is written: metrics, ledger, timing, checkpoints, and how to go on.

<home>/runs/<name>/ holds config.toml, metrics.jsonl, ledger.jsonl, timing.jsonl, checkpoints/,
tensorboard/. After a kill, the three files are cut back to the newest checkpoint, so that what
follows leaves the same bytes as if nothing had happened (timing.jsonl apart: wall-clock).
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from fedllm_app.core.progress import duration
from fedllm_app.report.run import FALLING
from fedllm_app.report.units import format_seconds
from fedllm_app.run.budget import Cost
from fedllm_app.run.checkpoint import (
    Progress,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from fedllm_app.run.ledger import Ledger, Totals
from fedllm_app.run.metrics import Board, JsonLines, read_lines, versions
from fedllm_app.server.intake import Intake
from fedllm_app.server.optimizer import ServerOptimizer

log = logging.getLogger("fedllm")


class Clock:
    """Seconds by part of a round."""

    def __init__(self) -> None:
        self.began = self._last = time.monotonic()
        self.parts: dict[str, float] = {}

    def lap(self, part: str) -> None:
        """Put the time since the last lap down to `part`."""
        now = time.monotonic()
        self.parts[part] = self.parts.get(part, 0.0) + now - self._last
        self._last = now

    def seconds(self, *parts: str) -> float:
        """Return the seconds of some parts; of none named, all since the clock began."""
        if not parts:
            return time.monotonic() - self.began
        return sum(self.parts.get(part, 0.0) for part in parts)


class Recorder:
    """Writes a run's folder, and reads it back when the run goes on.

    Parameters
    ----------
    folder : the run's; held under a lock by the caller.
    optimizer : its tensors are saved, and restored here when there is a checkpoint.
    rounds, checkpoint_every : of the run.
    base_client_bytes : what a device downloads once for the frozen base.

    Attributes
    ----------
    progress : all state that is not a tensor.
    method_state : the method's arrays.
    evaluation : the latest evaluation.
    saved : `progress.accepted` as of the newest checkpoint.
    closing_s : the longest that a round took after the wait for its replies.
    """

    def __init__(
        self,
        folder: Path,
        optimizer: ServerOptimizer,
        rounds: int,
        checkpoint_every: int,
        base_client_bytes: int,
    ) -> None:
        self.folder, self.optimizer = folder, optimizer
        self.rounds, self.every = rounds, checkpoint_every
        self.progress = Progress()
        self.method_state: Mapping[str, np.ndarray] = {}
        self.evaluation: dict[str, float] = {}
        self.closing_s = 0.0
        self._began = time.monotonic()
        self.metrics = JsonLines(folder / "metrics.jsonl")
        self.timing = JsonLines(folder / "timing.jsonl")
        self._restore(base_client_bytes)
        self.saved = dict(self.progress.accepted)
        self.begin_rounds()

    def _restore(self, base_client_bytes: int) -> None:
        path = latest_checkpoint(self.folder / "checkpoints")
        if path is not None:
            tensors, self.progress = load_checkpoint(path)
            self.optimizer.restore(tensors)
            self.method_state = {
                name.removeprefix("method."): tensor.numpy()
                for name, tensor in tensors.items()
                if name.startswith("method.")
            }
        # Without a checkpoint there is nothing to continue: the files begin anew.
        round_ = self.progress.round if path is not None else -1
        self.metrics.cut_back(round_)
        self.timing.cut_back(round_)
        self.evaluation = dict(self.progress.evaluation)
        totals = Totals.from_dict(self.progress.totals) if self.progress.totals else Totals()
        self.ledger = Ledger.resume(
            self.folder / "ledger.jsonl", max(round_, 0), totals, base_client_bytes
        )
        self.board = Board(self.folder / "tensorboard", round_ if round_ >= 0 else None)
        self.resumed = path is not None
        self.progress.finished = ""

    def begin(self, headline: str, evaluation: Mapping[str, float]) -> None:
        """Write the state before round 1 and its evaluation."""
        self.evaluation = dict(evaluation)
        record = {"round": 0, "headline": headline, "evaluation": self.evaluation}
        self.metrics.append(record)
        self.timing.append({"round": 0, "versions": versions()})
        self.board.scalars(0, record)
        self.checkpoint()

    def spent(self) -> Cost:
        """Return bytes and seconds so far."""
        totals = self.ledger.totals
        simulated_s = self.progress.simulated_s
        return Cost(totals.up_bytes, totals.down_bytes, self.seconds(), simulated_s)

    def seconds(self) -> float:
        """Return the running time over all resumes."""
        return self.progress.seconds + time.monotonic() - self._began

    def end_round(
        self,
        round_: int,
        intake: Intake,
        update_norm: float | None,
        evaluation: dict[str, float],
        clock: Clock,
        simulated_s: float | None = None,
    ) -> None:
        """Write one round, with a checkpoint where one is due.

        Parameters
        ----------
        simulated_s : how long the round lasts over the links of `network`, None without a clock.
        """
        self.progress.round = round_
        self.progress.clock += max((m.steps for m in intake.accepted.values()), default=0)
        if update_norm is not None:  # without a step, nothing of what came was used
            self.progress.accepted |= dict.fromkeys(intake.accepted, round_)
        totals = self.ledger.totals
        record: dict[str, object] = {
            "round": round_,
            "clients": len(intake.accepted),
            "dropped": dict(intake.dropped),
            "train-loss": intake.train_loss(),
            "update-norm": update_norm,
            "up-bytes": totals.up_bytes,
            "down-bytes": totals.down_bytes,
        }
        if simulated_s is not None:
            self.progress.simulated_s += simulated_s
            record["simulated-s"] = self.progress.simulated_s
        if evaluation:
            record["evaluation"] = self.evaluation = evaluation
        self.metrics.append(record)
        self.ledger.end_round()
        self.board.scalars(round_, record)
        if round_ % self.every == 0 or round_ >= self.rounds:
            self.checkpoint()
        clock.lap("checkpoint")
        seconds, closing_s = clock.seconds(), clock.seconds("step", "evaluate", "checkpoint")
        self.progress.slowest_s = max(self.progress.slowest_s, seconds)
        self.closing_s = max(self.closing_s, closing_s)
        self.timing.append(
            {
                "round": round_,
                "seconds": seconds,
                "parts": clock.parts,
                "client-train-s": sum(m.train_s for m in intake.accepted.values()),
            }
        )
        self._say(round_, record, seconds)

    def _say(self, round_: int, record: Mapping[str, object], seconds: float) -> None:
        """Log one line of progress with an estimate of the rest."""
        left = self.rounds - round_
        done = max(1, round_ - self._first_round + 1)
        rest = (time.monotonic() - self._rounds_began) / done * left
        words = [f"round {round_}/{self.rounds}", f"{record['clients']} clients"]
        if isinstance(loss := record["train-loss"], float):
            words.append(f"train loss {loss:.3f}")
        if "evaluation" in record:
            words += [f"{name} {value:.4f}" for name, value in list(self.evaluation.items())[:2]]
        totals = self.ledger.totals
        words.append(f"up {totals.up_bytes / 1e6:.2f} MB, down {totals.down_bytes / 1e6:.2f} MB")
        if "simulated-s" in record:
            words.append(f"simulated {format_seconds(self.progress.simulated_s)}")
        words.append(
            f"{seconds:.1f} s, about {duration(rest)} left" if left else f"{seconds:.1f} s"
        )
        log.info(", ".join(words))

    def begin_rounds(self) -> None:
        """Start the clock that the estimate of the remaining time is taken from."""
        self._rounds_began = time.monotonic()
        self._first_round = self.progress.round + 1

    def checkpoint(self) -> None:
        """Save the state after the last finished round."""
        for file in (self.metrics, self.timing):
            file.sync()
        self.ledger.sync()
        progress = Progress(
            **asdict(self.progress)
            | {
                "totals": self.ledger.totals.to_dict(),
                "evaluation": self.evaluation,
                "seconds": self.seconds(),
            }
        )
        method = {f"method.{k}": torch.from_numpy(v) for k, v in self.method_state.items()}
        save_checkpoint(self.folder / "checkpoints", self.optimizer.tensors() | method, progress)
        self.saved = dict(progress.accepted)

    def finish(self, why: str, evaluation: dict[str, float]) -> None:
        """Write the end of the run: its reason and, where it is new, the last evaluation."""
        self.progress.finished = why
        last = {"round": self.progress.round, "evaluation": evaluation}
        # A run killed between this line and its checkpoint has written it already.
        if evaluation and read_lines(self.metrics.path)[-1] != last:
            self.metrics.append(last)
        self.evaluation = evaluation or self.evaluation
        self.checkpoint()
        self.ledger.close()
        self.metrics.close()
        self.timing.close()
        self.board.close()

    def target_reached(self, target: float, metric: str) -> str:
        """Return a sentence once the latest evaluation reaches the target, or ""."""
        name = metric or next(iter(self.evaluation), "")
        if not target or name not in self.evaluation:
            return ""
        value = self.evaluation[name]
        reached = value <= target if name in FALLING else value >= target
        return f"target {name} {target:g} reached ({value:.4f})" if reached else ""
