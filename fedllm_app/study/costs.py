"""What the rounds of a run cost: bytes each way, the base, seconds of links and local steps.

The same table whether it was predicted (study/predict.py) or is read from a ledger, so that the
two can be compared, and a budget held against either.

Shapes: N rounds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import Beside
from fedllm_app.core.support import Draw
from fedllm_app.devices.meter import Meter, total
from fedllm_app.devices.network import Network, Traffic
from fedllm_app.run.metrics import Record, iterate_lines
from fedllm_app.server.asked import expected


@dataclass(frozen=True)
class Payload:
    """One client's payload: its length in bytes, those of positions among them, its coordinates."""

    size: int
    K: int
    positions: int = 0

    def length(self, taken: float) -> int:
        """Return the length where positions take this part of what they do here."""
        return self.size + round(self.positions * (taken - 1))


@dataclass(frozen=True)
class Costs:
    """What each of N rounds costs, all clients together, predicted or measured.

    Attributes
    ----------
    up_bytes, down_bytes : payloads, int64 of shape (N,).
    base_bytes : the frozen base, once for each client that is new in the round.
    seconds : of links and local steps, the slowest participant's; zero where neither is known.
        float64.
    base_s : seconds that the base adds to a round.
    energy_j : joules of all participants, the base's download left out; zero without devices.
    up_coordinates, down_coordinates : how many the payloads hold; zero where measured.
    """

    up_bytes: np.ndarray
    down_bytes: np.ndarray
    base_bytes: np.ndarray
    seconds: np.ndarray
    base_s: np.ndarray
    energy_j: np.ndarray
    up_coordinates: np.ndarray
    down_coordinates: np.ndarray

    @classmethod
    def zeros(cls, rounds: int) -> "Costs":
        """Return rounds that cost nothing yet."""
        kinds = dict.fromkeys(("seconds", "base_s", "energy_j"), np.float64)
        return cls(**{f.name: np.zeros(rounds, kinds.get(f.name, np.int64)) for f in fields(cls)})

    @property
    def rounds(self) -> int:
        """N."""
        return int(self.up_bytes.size)

    def first(self, rounds: int) -> "Costs":
        """Return the first rounds alone."""
        return Costs(**{f.name: getattr(self, f.name)[:rounds] for f in fields(self)})

    def put_seconds(self, t: int, traffic: Traffic, base: Mapping[str, int],
                    network: Network, amounts: Mapping[str, float]) -> None:  # fmt: skip
        """Put down how long round `t` lasts, and how much longer with the base for new clients.

        Where devices are simulated, what they use, too.
        """
        whole = {c: (down + base.get(c, 0), up) for c, (down, up) in traffic.items()}
        self.seconds[t - 1] = network.round_seconds(traffic, amounts)
        self.base_s[t - 1] = network.round_seconds(whole, amounts) - self.seconds[t - 1]
        if network.fleet is not None:
            meter, lasts_s = Meter(network.fleet, network), float(self.seconds[t - 1])
            used = (meter.usage(c, *both, amounts[c], lasts_s) for c, both in traffic.items())
            self.energy_j[t - 1] = total(used).energy_j


def measured(
    folder: Path,
    network: Network | None = None,
    amount: Callable[[str], float] = lambda client: 0.0,
) -> Costs:
    """Return what the rounds of a run have cost, by its ledger.

    The base of a round is put down to the clients whose first download it is.

    Parameters
    ----------
    network : what seconds are reckoned with, None for no seconds.
    amount : what a client computes in a round (`Network.amount`); a ledger does not tell.
    """
    rounds: dict[int, list[Record]] = {}
    for line in iterate_lines(folder / "ledger.jsonl"):
        rounds.setdefault(line["round"], []).append(line)
    costs, met = Costs.zeros(max(rounds, default=0)), set[str]()
    for t, lines in rounds.items():
        ways: dict[str, dict[str, int]] = {"down": {}, "up": {}}
        base = 0
        for line in lines:
            if line["direction"] == "base":
                base = line["bytes"] // line["clients"]
                costs.base_bytes[t - 1] += line["bytes"]
            else:
                way = ways[line["direction"]]
                way[line["client"]] = way.get(line["client"], 0) + line["bytes"]
        down, up = ways["down"], ways["up"]
        costs.down_bytes[t - 1], costs.up_bytes[t - 1] = sum(down.values()), sum(up.values())
        if network:
            traffic = {client: (size, up.get(client)) for client, size in down.items()}
            new = dict.fromkeys(down.keys() - met, base)
            costs.put_seconds(t, traffic, new, network, {client: amount(client) for client in down})
        met |= down.keys()
    return costs


def positions_of(folder: Path, rounds: int) -> tuple[dict[str, np.ndarray], int]:
    """Return bytes of positions by way and round, each of shape (N,), and of a dense payload."""
    sent, dense = {"down": np.zeros(rounds), "up": np.zeros(rounds)}, 0
    for line in iterate_lines(folder / "ledger.jsonl"):
        if line["direction"] in sent:
            sent[line["direction"]][line["round"] - 1] += line["positions"]
            dense = line["dense-bytes"]
    return sent, dense


def beside_bytes(
    vectors: Mapping[str, Beside], layout: ParamLayout, draw: Draw, value_type: str, block: int
) -> int:
    """Return the most bytes of the vectors that travel one way beside the parameters.

    Parameters
    ----------
    value_type : of those that have none of their own.
    """
    return sum(
        expected(vector.support, layout, draw, vector.value_type or value_type, block).most_bytes
        for vector in vectors.values()
    )
