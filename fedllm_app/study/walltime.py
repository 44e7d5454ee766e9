"""How long pre-training over slow links takes: the wall-time model of Photon (arXiv 2411.02908).

A round is H local steps at nu steps a second, and then an exchange of S bytes with K clients over
links of B bytes a second:

    parameter server   2 K S / B          everybody's update up, the model down to everybody
    all-reduce         (K - 1) S / B      everybody's update to everybody
    ring               2 S (K - 1) / (K B)

Steps are data-parallel training where H is 1. Payloads of few coordinates cannot be summed on the
way, so a ring carries dense ones alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from fedllm_app.config import RunConfig
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.seeds import generator
from fedllm_app.study.predict import Predictor

Topology = Literal["parameter-server", "all-reduce", "ring"]
TOPOLOGIES: tuple[Topology, ...] = get_args(Topology)
SAMPLE = 1024  # side of the matrix that is encoded to know the bytes of a coordinate


@dataclass(frozen=True)
class Traffic:
    """Bytes that one client sends and receives in a round."""

    up: float
    down: float

    @classmethod
    def dense(cls, parameters: float, bytes_each: float = 4.0) -> "Traffic":
        """Return that of the whole model both ways."""
        return cls(parameters * bytes_each, parameters * bytes_each)


@dataclass(frozen=True)
class Run:
    """What is trained, and how often it is exchanged.

    Attributes
    ----------
    rounds, steps : rounds, and local steps in each.
    clients : K, that take part in every round.
    steps_per_s : local steps of a client in a second (nu).
    """

    rounds: int
    steps: int
    clients: int
    steps_per_s: float

    @property
    def compute_s(self) -> float:
        """Seconds of computing in a round."""
        return self.steps / self.steps_per_s

    def every_step(self) -> "Run":
        """Return data-parallel training in the same number of sequential steps."""
        return replace(self, rounds=self.rounds * self.steps, steps=1)


def exchange_s(topology: Topology, clients: int, traffic: Traffic, bytes_per_s: float) -> float:
    """Return the seconds of one exchange."""
    K = clients
    if topology == "parameter-server":
        return K * (traffic.up + traffic.down) / bytes_per_s
    if topology == "all-reduce":
        return (K - 1) * traffic.up / bytes_per_s
    return 2 * traffic.up * (K - 1) / (K * bytes_per_s)


def total_s(run: Run, topology: Topology, traffic: Traffic, bytes_per_s: float) -> float:
    """Return the seconds of a whole run."""
    each = run.compute_s + exchange_s(topology, run.clients, traffic, bytes_per_s)
    return run.rounds * each


def compressed(config: RunConfig, parameters: float) -> Traffic:
    """Return the bytes of a client's round by a run's own method and value types.

    The method plans a round for one matrix of normal values, its payloads are encoded by the codec,
    and their bytes for each entry are taken to be those of a model of any size.

    Parameters
    ----------
    config : its last round is taken: the first may be another.
    parameters : of the model.
    """
    layout = ParamLayout(("sample",), ((SAMPLE, SAMPLE),))
    start_P = generator(0, "walltime").standard_normal(layout.size).astype(np.float32)
    K = config.round.cohort
    run = config.run.model_copy(update={"rounds": 2})
    costs = Predictor(layout, start_P, 0, {str(i): 1 for i in range(K)}).costs(
        config.model_copy(update={"run": run})
    )
    each = parameters / (K * layout.size)
    return Traffic(float(costs.up_bytes[-1]) * each, float(costs.down_bytes[-1]) * each)


@dataclass(frozen=True)
class Row:
    """One way to train: seconds in all, and the share that is communication."""

    way: str
    topology: Topology
    seconds: float
    communication: float


def rows(run: Run, dense: Traffic, sparse: Traffic, bytes_per_s: float) -> Sequence[Row]:
    """Return each way over each topology that carries it.

    Parameters
    ----------
    dense, sparse : bytes of one client in a round, as they are and as the codec writes them.
    """
    found = []
    for topology in TOPOLOGIES:
        ways = [("every step", run.every_step(), dense), ("every round", run, dense)]
        if topology != "ring":
            ways.append(("every round, compressed", run, sparse))
        for way, played, traffic in ways:
            seconds = total_s(played, topology, traffic, bytes_per_s)
            found.append(Row(way, topology, seconds, 1 - run.rounds * run.compute_s / seconds))
    return found
