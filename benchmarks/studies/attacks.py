"""What wrong clients do to bench-S: scaled, flipped and random updates, against each defence.

    python -m benchmarks.studies.attacks run --data DATA --model MODEL    some hours; resumable
    python -m benchmarks.studies.attacks table                            results and table

FLoSS sends (1/4, 1/16) and q4 up, 10 clients a round. Every round, 0, 1 or 2 of the clients that
were asked send something else than they should. They are played here, between the clients and the
server, by `Attacked`; the product has no case for them. Results go to
benchmarks/results/attacks.json after every run.
"""

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.markers import fill, printed
from benchmarks.record import ROOT, write_result
from benchmarks.reproduce.cells import Rates, Settings, floss_entry
from benchmarks.reproduce.results import best_rates
from fedllm_app.core.job import Reply, Request
from fedllm_app.core.plan import PARAMS
from fedllm_app.core.region import positions_of
from fedllm_app.core.seeds import generator
from fedllm_app.parts import Parts
from fedllm_app.play import LocalTransport, run_local
from fedllm_app.run.metrics import read_lines
from fedllm_app.study.sweep import Cell, finished
from fedllm_app.wire.codec import decode, encode
from fedllm_app.wire.slices import origin_of

ONCE = 5  # the round in which a single huge reply comes

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def random(values_K: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return noise with ten times the norm of the values."""
    noise_K = rng.standard_normal(values_K.size)
    found: np.ndarray = 10 * np.linalg.norm(values_K) / np.linalg.norm(noise_K) * noise_K
    return found


CHANGES: dict[str, Change] = {
    "scaled": lambda values_K, rng: 100 * values_K,
    "flipped": lambda values_K, rng: -10 * values_K,
    "random": random,
    "once": lambda values_K, rng: np.ones_like(values_K),
}
WORDS = {
    "none": "none",
    "scaled": "update times 100",
    "flipped": "update times -10",
    "random": "random, 10 times the norm",
    "once": f"one reply of ones, in round {ONCE} alone",
}
SENDERS: Settings = {"strategy.mean": "senders"}
DEFENCES: dict[str, Settings] = {
    "off": {"round.clip": "off"},
    "clip": {},
    "trimmed": SENDERS | {"round.aggregate": "trimmed-mean"},
    "median": SENDERS | {"round.aggregate": "median"},
}
HEADS = {
    "off": "mean, `round.clip` off",
    "clip": "mean, clipped (default)",
    "trimmed": "trimmed mean, clipped",
    "median": "median, clipped",
}


@dataclass(frozen=True)
class Point:
    """One run: what some clients do, how many, against which defence."""

    attack: str
    attackers: int
    defence: str
    seed: int = 0

    def cell(self, rates: Rates, places: Settings, rounds: int) -> Cell:
        """Return the run."""
        entry = floss_entry("attacks", 16, "4", "16", rounds, {"wire.up-values": "q4"}, self.seed)
        settings = dict(entry.settings) | {"round.clients": 10, "round.evaluate-every": 10}
        base = entry.cell(rates, places)
        assert base is not None
        name = f"attack-{self.attack}-{self.attackers}-{self.defence}-r{rounds}-s{self.seed}"
        return Cell(name, dict(base.settings) | settings | DEFENCES[self.defence])


def points() -> list[Point]:
    """Return every run, the most telling first."""
    none = [Point("none", 0, d) for d in DEFENCES]
    found = none[:2] + [Point("once", 1, d) for d in ("off", "clip")]
    attacks = [(a, n) for n in (1, 2) for a in ("scaled", "flipped", "random")]
    found += [Point(a, n, d) for a, n in attacks for d in ("off", "clip")]
    found += none[2:] + [Point(a, n, d) for a, n in attacks[::-1] for d in ("median", "trimmed")]
    # Does the default change a clean run? One seed would not tell.
    return found + [Point("none", 0, d, s) for s in (1, 2) for d in ("off", "clip")]


class Attacked(LocalTransport):
    """The clients of this process, of which some send what they should not."""

    def __init__(self, parts: Parts, folder: Path, point: Point) -> None:
        super().__init__(parts, folder)
        self._point, self._seed = point, parts.config.run.seed
        self._wire, self._layout = parts.config.wire, parts.model.layout
        self._bases: dict[str, str] = {}
        self._wrong: set[str] = set()

    def submit(self, requests: Sequence[Request], timeout_s: float) -> None:
        """Take requests, and draw who answers them wrongly."""
        super().submit(requests, timeout_s)
        jobs = sorted((job.client, job.id) for request in requests for job in request.jobs)
        round_ = jobs[0][1]
        rng = generator(self._seed, "attackers", round_)
        drawn = rng.choice(len(jobs), size=self._point.attackers, replace=False)
        acts = self._point.attack != "once" or round_ == ONCE
        self._wrong = {jobs[i][0] for i in drawn} if acts else set()
        self._bases = {job.client: r.fingerprint for r in requests for job in r.jobs}

    def poll(self) -> list[Reply]:
        """Return the replies, those of the drawn clients changed."""
        return [self._changed(r) if r.client in self._wrong else r for r in super().poll()]

    def _changed(self, reply: Reply) -> Reply:
        origin = origin_of(self._layout, self._bases[reply.client])
        update = decode(reply.vectors[PARAMS], origin)
        rng = generator(self._seed, "attack", reply.job, reply.client)
        values_K = CHANGES[self._point.attack](update.values, rng).astype(np.float32)
        payload = encode(
            values_K,
            positions_of(update.positions, origin.P),
            origin,
            value_type=self._wire.up_values,
            block=self._wire.block,
            rng=rng,
        )
        return Reply(reply.job, reply.client, {PARAMS: payload}, reply.metrics)


def play(point: Point, cell: Cell, home: Path) -> None:
    """Play one run in this process."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    run_local(cell.config(home), lambda parts, folder: Attacked(parts, folder, point))


def play_all(arguments: argparse.Namespace, cells: Sequence[tuple[Point, Cell]]) -> None:
    """Play what is not finished, one process after the other, and write the table after each."""
    home: Path = arguments.home
    logs = home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for i, (_, cell) in enumerate(cells):
        if finished(cell, home):
            continue
        again = [sys.executable, "-m", "benchmarks.studies.attacks", "one", "--number", str(i)]
        for key in ("data", "model", "home", "rounds"):
            again += [f"--{key}", str(getattr(arguments, key))]
        print(f"{i + 1} of {len(cells)}: {cell.name}", flush=True)
        with (logs / f"{cell.name}.log").open("ab") as log:
            subprocess.run(again, check=True, cwd=ROOT, stdout=log, stderr=log, env=os.environ)
        table(home, cells, arguments.rounds)


def table(home: Path, cells: Sequence[tuple[Point, Cell]], rounds: int) -> None:
    """Write the results, and the table of docs/robustness.md."""
    rows = [row_of(point, cell, home) for point, cell in cells if finished(cell, home)]
    settings = {"recipes": ["recipes/bench-s.toml"], "rounds": rounds, "clients-a-round": 10}
    write_result("attacks", settings, rows)
    fill(ROOT / "docs" / "robustness.md", {"attacks": printed(lines(rows))})


def row_of(point: Point, cell: Cell, home: Path) -> dict[str, Any]:
    """Return what a run measured."""
    records = read_lines(home / "runs" / cell.name / "metrics.jsonl")
    accuracy = {str(r["round"]): r["evaluation"]["accuracy"] for r in records if "evaluation" in r}
    return {
        "run": cell.name,
        "attack": point.attack,
        "attackers": point.attackers,
        "defence": point.defence,
        "seed": point.seed,
        "settings": dict(cell.settings),
        "accuracy": accuracy,
        "score": accuracy[max(accuracy, key=int)],
        "clipped": sum(r.get("clipped", 0) for r in records),
        "replies": sum(r.get("clients", 0) for r in records),
    }


def lines(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the cells of the table, its head first; seeds of one point are joined."""
    scores: dict[tuple[str, int, str], list[float]] = {}
    for row in rows:
        key = row["attack"], row["attackers"], row["defence"]
        scores.setdefault(key, []).append(row["score"])
    found = [["wrong clients of 10", "what they send", *HEADS.values()]]
    for attack, count in dict.fromkeys((p.attack, p.attackers) for p in points()):
        cells = [scores.get((attack, count, defence), []) for defence in DEFENCES]
        if any(cells):
            found.append([str(count), WORDS[attack], *(_shown(cell) for cell in cells)])
    return found


def _shown(scores: Sequence[float]) -> str:
    if len(scores) < 2:
        return f"{scores[0]:.3f}" if scores else ""
    return f"{np.mean(scores):.3f} ({', '.join(f'{score:.3f}' for score in scores)})"


def main() -> int:
    """Run one step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("step", choices=["run", "table", "one"])
    parser.add_argument("--data", type=Path, default=Path("/data"))
    parser.add_argument("--model", type=Path, default=Path("/model"))
    parser.add_argument("--home", type=Path, default=Path.home() / ".fedllm" / "attacks")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--number", type=int, help="of the run that `one` plays")
    arguments = parser.parse_args()
    places = {
        "data.train": str(arguments.data.absolute()),
        "model.source": str(arguments.model.absolute()),
    }
    rates = best_rates(arguments.home)
    cells = [(p, p.cell(rates, places, arguments.rounds)) for p in points()]
    if arguments.step == "one":
        play(*cells[arguments.number], arguments.home)
        return 0
    if arguments.step == "run":
        play_all(arguments, cells)
    table(arguments.home, cells, arguments.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
