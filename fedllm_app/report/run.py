"""Read a run's folder back, finished or not, into the few tables that plots and page share.

The ledger is read line by line and summed per round: with many clients it is far larger than
what a page needs of it.
"""

import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedllm_app.core.errors import DataError
from fedllm_app.core.settings import flatten
from fedllm_app.report.classes import read_classes
from fedllm_app.run.ledger import Totals
from fedllm_app.run.metrics import Record, iterate_lines, read_lines
from fedllm_app.tasks import TASKS, falls

PARTS = ("values", "positions", "header")
DENSE = ("dense", "fedavg")
SPENT = ("up-bytes", "down-bytes", "simulated-s", "tokens", "flops", "compute-s", "energy-j")


@dataclass(frozen=True)
class Run:
    """What one run measured.

    Attributes
    ----------
    name : name of the folder; a page tells equal ones apart.
    settings : run-config by dotted key.
    metrics, timing : records in the order of rounds; of metrics each has what was spent so far.
    totals : sums of the ledger.
    traffic : bytes by round, then by (direction, part).
    refused : clients whose replies arrived and were dropped, with how often.
    clients : how many took part.
    classes : by label, as classes.json has them; empty for a task without, or before the end.
    """

    folder: Path
    name: str
    settings: dict[str, Any]
    metrics: list[Record]
    timing: list[Record]
    totals: Totals
    traffic: dict[int, Counter[tuple[str, str]]]
    refused: Counter[str]
    clients: int = 0
    classes: list[Record] = field(default_factory=list)

    @property
    def asked(self) -> int:
        """Rounds that the configuration asks for, 0 if it does not say."""
        return int(self.settings.get("run.rounds") or 0)

    @property
    def strategy(self) -> str:
        """Name of the method, "" if the configuration does not say."""
        return str(self.settings.get("strategy.name", ""))

    @property
    def dense(self) -> bool:
        """Whether this run is a reference that sends everything."""
        return self.strategy in DENSE

    @property
    def rounds(self) -> list[Record]:
        """Records of training rounds: all but round 0, the initial model."""
        return [record for record in self.metrics if record["round"] > 0]

    @property
    def last_round(self) -> int:
        """Number of the last round that is complete."""
        return max((int(record["round"]) for record in self.metrics), default=0)

    @property
    def headline(self) -> str:
        """Name of the metric shown first; "" if nothing was evaluated."""
        for record in self.metrics:
            if record.get("headline"):
                return str(record["headline"])
        names = [name for record in self.metrics for name in record.get("evaluation") or {}]
        known = [kind.headline for kind in TASKS.values()]
        return next((name for name in (*known, "loss", *names) if name in names), "")

    @property
    def seconds(self) -> float:
        """Wall-clock of all rounds."""
        return float(sum(record.get("seconds") or 0.0 for record in self.timing))

    @property
    def clock(self) -> bool:
        """Whether seconds were simulated over the links of `network`."""
        return bool(self.settings.get("network.down-mbps")) or self.simulated_s is not None

    @property
    def counts_tokens(self) -> bool:
        """Whether rounds say how many tokens were trained on."""
        return any("tokens" in record for record in self.metrics)

    @property
    def fleet(self) -> bool:
        """Whether devices were simulated."""
        return bool(self.settings.get("devices.fleet"))

    @property
    def energy_j(self) -> float | None:
        """Joules of all simulated devices, None without any."""
        found = [record["energy-j"] for record in self.metrics if "energy-j" in record]
        return float(found[-1]) if found else None

    @property
    def simulated_s(self) -> float | None:
        """Simulated seconds of all rounds, None if none has any."""
        found = [record["simulated-s"] for record in self.metrics if "simulated-s" in record]
        return float(found[-1]) if found else None

    @property
    def dropped(self) -> Counter[str]:
        """Dropped replies by reason."""
        total: Counter[str] = Counter()
        for record in self.metrics:
            total.update(record.get("dropped") or {})
        return total

    @property
    def staleness(self) -> tuple[float, int] | None:
        """Mean staleness of accepted replies, in steps, and the largest; None without any."""
        found = [r for r in self.metrics if "staleness-most" in r]
        replies = sum(int(r["clients"]) for r in found)
        if not replies:
            return None
        total = sum(r["staleness-mean"] * r["clients"] for r in found)
        return total / replies, max(int(r["staleness-most"]) for r in found)

    @property
    def clipped(self) -> Counter[str]:
        """Clients whose update was above the bound of `round.clip`, with in how many rounds."""
        found = (record.get("clipped-clients") or [] for record in self.metrics)
        return Counter(str(client) for clients in found for client, _ in clients)

    @property
    def ended(self) -> list[str]:
        """Clients whose stream came to its end in a round, sorted."""
        found = (record.get("ended-clients") or [] for record in self.metrics)
        return sorted({str(client) for clients in found for client in clients})

    @property
    def scales(self) -> bool:
        """Whether `round.clip` scales an update down; else it drops the reply."""
        return self.settings.get("round.clip-action") != "drop"

    @property
    def failing(self) -> dict[tuple[str, str], tuple[int, str]]:
        """Of each client and reason of a drop that came twice or more: how often, and the last."""
        words = {record["round"]: record.get("failures") or {} for record in self.timing}
        seen: dict[tuple[str, str], tuple[int, str]] = {}
        for record in self.metrics:
            for client, reason in record.get("failed-clients") or []:
                count, _ = seen.get((client, reason), (0, ""))
                seen[client, reason] = count + 1, words.get(record["round"], {}).get(client, "")
        most = sorted(seen.items(), key=lambda item: (-item[1][0], item[0]))
        return {key: found for key, found in most if found[0] > 1}

    @property
    def versions(self) -> dict[str, str]:
        """Versions that the run noted; empty if it did not."""
        for record in [*self.timing, *self.metrics]:
            if record.get("versions"):
                return dict(record["versions"])
        return {}

    def falls(self, metric: str) -> bool:
        """Whether less of a metric is better."""
        return falls(metric, str(self.settings.get("task.name", "")))

    def evaluations(self, metric: str) -> list[tuple[Record, float]]:
        """Return the records that hold `metric` with a number, and that number."""
        return [
            (record, float(value))
            for record in self.metrics
            if (value := (record.get("evaluation") or {}).get(metric)) is not None
        ]

    def evaluation_names(self) -> list[str]:
        """Return names of all metrics, the headline first."""
        names = {name for record in self.metrics for name in record.get("evaluation") or {}}
        return sorted(names, key=lambda name: (name != self.headline, name))

    def best(self, metric: str) -> tuple[Record, float] | None:
        """Return the evaluation with the best value, the earliest of equals."""
        found = self.evaluations(metric)
        sign = -1 if self.falls(metric) else 1
        return max(found, key=lambda pair: sign * pair[1], default=None)

    def final(self, metric: str) -> float | None:
        """Return the last value of a metric, None where it was no number."""
        evaluations = (record.get("evaluation") or {} for record in self.metrics)
        every = [found[metric] for found in evaluations if metric in found]
        return float(every[-1]) if every and every[-1] is not None else None

    def reached(self, metric: str, target: float) -> Record | None:
        """Return the record of the first evaluation as good as `target`, None if none is."""
        falling = self.falls(metric)
        for record, value in self.evaluations(metric):
            if value <= target if falling else value >= target:
                return record
        return None

    def part_bytes(self, direction: str, part: str, round: int | None = None) -> int:
        """Return bytes of one part of all payloads in one direction, of one round if given."""
        if round is not None:
            return self.traffic[round][direction, part] if round in self.traffic else 0
        return sum(counts[direction, part] for counts in self.traffic.values())

    def sent(self, direction: str) -> tuple[int, int]:
        """Return bytes sent in one direction (`up` or `down`), and what dense would have been."""
        totals = self.totals
        if direction == "up":
            return totals.up_bytes, totals.dense_up_bytes
        return totals.down_bytes, totals.dense_down_bytes

    def mean_seconds(self) -> dict[str, float]:
        """Return mean seconds by part of a round; what no part claims is `other`."""
        return mean_parts([seconds_by_part(r) for r in self.timing if r["round"] > 0])


def read_run(folder: Path) -> Run:
    """Read the folder of a run.

    Raises
    ------
    DataError
        If there is no metrics.jsonl in it, or config.toml is not TOML.
    CheckpointError
        If a file has a broken line before its last one.
    """
    folder = folder.resolve()
    if not (folder / "metrics.jsonl").is_file():
        others = sorted(path.parent.name for path in folder.parent.glob("*/metrics.jsonl"))
        known = f"; runs beside it: {', '.join(others)}" if others else ""
        raise DataError(f"{folder} holds no metrics.jsonl; expected the folder of a run{known}")
    totals, refused, seen = Totals(), Counter[str](), set[str]()
    traffic: dict[int, Counter[tuple[str, str]]] = {}
    for line in iterate_lines(folder / "ledger.jsonl"):
        totals.add(line)
        counts = traffic.setdefault(line["round"], Counter[tuple[str, str]]())
        counts.update({(line["direction"], part): line[part] for part in PARTS})
        if line["direction"] != "base":
            seen.add(line["client"])
        if not line["accepted"]:
            refused[line["client"]] += 1
    metrics = carried(read_lines(folder / "metrics.jsonl"))
    return Run(
        folder=folder,
        name=folder.name,
        settings=_read_settings(folder / "config.toml"),
        metrics=metrics,
        timing=read_lines(folder / "timing.jsonl"),
        totals=totals,
        traffic=traffic,
        refused=refused,
        clients=len(seen),
        classes=read_classes(folder, max((int(r["round"]) for r in metrics), default=0)),
    )


def carried(records: Sequence[Record]) -> list[Record]:
    """Return the records, each with what was spent so far.

    The first and the last may hold an evaluation alone: one stands at zero, the other where the
    round before it ended.
    """
    spent: dict[str, Any] = {key: 0 for key in SPENT if any(key in record for record in records)}
    filled = []
    for record in records:
        spent |= {key: record[key] for key in spent if key in record}
        filled.append(spent | record)
    return filled


def seconds_by_part(record: Record) -> dict[str, float]:
    """Return seconds of a round by part, with `other` for what no part claims."""
    parts = {name: float(value or 0.0) for name, value in (record.get("parts") or {}).items()}
    other = float(record.get("seconds") or 0.0) - sum(parts.values())
    return {**parts, "other": max(0.0, other)}


def mean_parts(rounds: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each part over rounds; a part that a round lacks counts as zero."""
    rows = list(rounds)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: sum(row.get(name, 0.0) for row in rows) / len(rows) for name in names}


def _read_settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return flatten(tomllib.loads(path.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path} is not TOML ({error}); expected the run's configuration") from None
