"""Keep the bytes that travelled, measured on the encoded payload, client by client.

Every saving that this project claims is a sum over these lines. Beside each payload stands what
a dense one of the same layout would have cost, in float32 and for the same client, so that the
comparison needs no second run. A reply that arrived and was then dropped has cost its bytes too.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fedllm_app.core.errors import CheckpointError
from fedllm_app.run.metrics import JsonLines, Record, iterate_lines

Direction = Literal["up", "down"]
EVALUATION = "evaluation"  # what the ledger calls a model that is sent to be measured


@dataclass
class Totals:
    """Sums over a ledger's lines: part of the server state, and what a budget is held against.

    Attributes
    ----------
    up_bytes, down_bytes : payloads from and to clients, headers included, dropped replies too.
    dense_up_bytes, dense_down_bytes : what dense float32 payloads would have cost.
    base_bytes : one-time downloads of the frozen base model.
    """

    up_bytes: int = 0
    down_bytes: int = 0
    dense_up_bytes: int = 0
    dense_down_bytes: int = 0
    base_bytes: int = 0

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Totals":
        """Return totals saved with `to_dict`.

        Raises
        ------
        CheckpointError
            If the names are not those of this class.
        """
        if set(values) != set(cls.__dataclass_fields__):
            raise CheckpointError(
                f"ledger totals have {sorted(values)}; expected {sorted(cls.__dataclass_fields__)}"
            )
        return cls(**{name: int(value) for name, value in values.items()})

    @classmethod
    def of(cls, path: Path) -> "Totals":
        """Return the sums over a ledger file; a missing one sums to zero."""
        totals = cls()
        for line in iterate_lines(path):
            totals.add(line)
        return totals

    def to_dict(self) -> dict[str, int]:
        """Return the totals as JSON has them."""
        return asdict(self)

    def add(self, line: Record) -> None:
        """Add one line of a ledger."""
        if line["direction"] == "base":
            self.base_bytes += line["bytes"]
        elif line["direction"] == "up":
            self.up_bytes += line["bytes"]
            self.dense_up_bytes += line["dense-bytes"]
        else:
            self.down_bytes += line["bytes"]
            self.dense_down_bytes += line["dense-bytes"]


@dataclass(frozen=True)
class Moved:
    """What went to one client and came from it in a round.

    Attributes
    ----------
    down_bytes, up_bytes : None where nothing went that way.
    jobs : that it was given.
    """

    down_bytes: int | None = None
    up_bytes: int | None = None
    jobs: int = 0

    def plus(self, direction: Direction, size: int, jobs: int) -> "Moved":
        """Return it with one more payload."""
        name = f"{direction}_bytes"
        return replace(self, **{name: (getattr(self, name) or 0) + size, "jobs": self.jobs + jobs})


class Ledger:
    """ledger.jsonl of one run: lines wait until their round is complete, then are written sorted.

    Replies arrive in any order and the file must not depend on it. A client's first download
    also costs the base model once; a row with direction `base` holds the sum for the clients that
    were new in that round.

    Parameters
    ----------
    path : the file, continued where it ends.
    totals : sums of the checkpoint that the run continues from; None takes them from the file.
    base_client_bytes : size of the base model's files; 0 if devices download none.

    Raises
    ------
    CheckpointError
        If `totals` are not the sums over the file's lines.
    """

    def __init__(
        self, path: Path, totals: Totals | None = None, base_client_bytes: int = 0
    ) -> None:
        self.totals = Totals()
        self._file = JsonLines(path)
        self._base_client_bytes = base_client_bytes
        self._waiting: list[Record] = []
        self._seen: set[str] = set()
        self._new: dict[int, int] = {}
        for line in iterate_lines(path):
            self.totals.add(line)
            if line["direction"] == "down":
                self._seen.add(line["client"])
        if totals is not None and totals != self.totals:
            raise CheckpointError(
                f"{path} sums to {self.totals.to_dict()}; the checkpoint has {totals.to_dict()}. "
                "The file was changed since: restore it, or start a run with a new run.name"
            )

    @classmethod
    def resume(cls, path: Path, round: int, totals: Totals, base_client_bytes: int = 0) -> "Ledger":
        """Cut the file back to the checkpoint of `round`, then continue it."""
        file = JsonLines(path)
        file.cut_back(round)
        file.close()
        return cls(path, totals, base_client_bytes)

    def record(
        self,
        round: int,
        client: str,
        group: str,
        direction: Direction,
        header: int,
        positions: int,
        values: int,
        dense_bytes: int,
        accepted: bool = True,
        vector: str = "params",
    ) -> None:
        """Add one payload; the totals count it at once, the file at the end of its round.

        Parameters
        ----------
        header, positions, values : bytes of the payload's three parts.
        dense_bytes : what a dense float32 payload would have cost this client.
        accepted : False for a reply that arrived and was dropped.
        vector : name of a vector that travels beside the parameters; its rows name it.
        """
        if direction == "down" and client not in self._seen:
            self._seen.add(client)
            self._new[round] = self._new.get(round, 0) + 1
            self.totals.base_bytes += self._base_client_bytes
        line = _line(
            round, client, group, direction, header, positions, values, dense_bytes, accepted
        )
        if vector != "params":
            line["vector"] = vector
        self.totals.add(line)
        self._waiting.append(line)

    def traffic(self) -> dict[str, tuple[int, int | None]]:
        """Return bytes down and up of each client that was sent a payload in the open round.

        Up is None where nothing came; dropped replies count. Late replies of clients that have no
        part in the round are left out.
        """
        moved = self.moved().items()
        return {c: (m.down_bytes, m.up_bytes) for c, m in moved if m.down_bytes is not None}

    def moved(self) -> dict[str, Moved]:
        """Return what each client received and sent in the open round, late replies included.

        A model that is sent to be measured is no part of the round's jobs, and holds up none.
        """
        found: dict[str, Moved] = {}
        for line in self._waiting:
            if line.get("vector") == EVALUATION:
                continue
            so_far = found.get(line["client"], Moved())
            jobs = line["direction"] == "down" and line.get("vector", "params") == "params"
            found[line["client"]] = so_far.plus(line["direction"], line["bytes"], int(jobs))
        return found

    def end_round(self) -> None:
        """Write the lines that wait, base row first, then by direction, client and content."""
        base = [
            _line(round, "", "", "base", 0, 0, size, size, True) | {"clients": count}
            for round, count in self._new.items()
            if (size := count * self._base_client_bytes)
        ]
        self._waiting.sort(key=lambda line: tuple(line.values()))
        self._file.extend(base + self._waiting)
        self._waiting, self._new = [], {}

    def sync(self) -> None:
        """Return when every line is on the disk: call it before a checkpoint is saved."""
        self.end_round()
        self._file.sync()

    def close(self) -> None:
        """Write what waits and close the file."""
        self.end_round()
        self._file.close()


def _line(
    round: int,
    client: str,
    group: str,
    direction: str,
    header: int,
    positions: int,
    values: int,
    dense_bytes: int,
    accepted: bool,
) -> Record:
    return {
        "round": round,
        "direction": direction,
        "client": client,
        "group": group,
        "header": header,
        "positions": positions,
        "values": values,
        "bytes": header + positions + values,
        "dense-bytes": dense_bytes,
        "accepted": accepted,
    }
