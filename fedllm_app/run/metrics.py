"""Write what a run measures, one JSON line a round, so that a resumed run leaves the same bytes.

metrics.jsonl is inside the promise of resume, timing.jsonl (wall-clock) outside it. A process
killed while writing leaves at most one torn last line, which every reader here leaves out.
TensorBoard shows the same numbers while the run goes on, when it is installed.
"""

import json
import logging
import math
import os
import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from fedllm_app.core.errors import CheckpointError
from fedllm_app.core.files import replacing

Record = dict[str, Any]

log = logging.getLogger("fedllm")

PACKAGES = ("fedllm", "flwr", "torch", "transformers", "peft", "datasets", "numpy", "ray")


class JsonLines:
    """A file of records, appended to by one process.

    Opening it removes a torn last line, so that the next record starts on a line of its own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        _drop_torn_end(path)
        self._file = path.open("ab")

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record and hand it to the operating system.

        Keys stay in the order given, those of nested records are sorted (a count by reason must
        not depend on which reason came first). Floats are printed so that reading gives the same
        bits; what is not finite becomes null, since JSON has no word for it.
        """
        self._file.write(_line(record))
        self._file.flush()

    def extend(self, records: list[Record]) -> None:
        """Write several records at once."""
        self._file.write(b"".join(map(_line, records)))
        self._file.flush()

    def sync(self) -> None:
        """Return when every record is on the disk: call it before a checkpoint is saved."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def cut_back(self, round: int) -> None:
        """Drop, in one step, all records of rounds later than `round`.

        Raises
        ------
        CheckpointError
            If a line that is not the last one is no JSON record.
        """
        self._file.close()
        with replacing(self.path) as out:
            for raw, record in _complete_lines(self.path):
                if record.get("round", 0) <= round:
                    out.write(raw)
        self._file = self.path.open("ab")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def iterate_lines(path: Path) -> Iterator[Record]:
    """Yield the records of a file, save a torn last line; a missing file is empty.

    Raises
    ------
    CheckpointError
        If a line that is not the last one is no JSON record.
    """
    if path.exists():
        for _, record in _complete_lines(path):
            yield record


def read_lines(path: Path) -> list[Record]:
    """Return all records of a file; see `iterate_lines`."""
    return list(iterate_lines(path))


class Board:
    """TensorBoard scalars, if it is installed; otherwise nothing, and said once.

    Parameters
    ----------
    folder : where the event files go.
    resumed_after : round of the checkpoint that the run continues from; later points are hidden.
    """

    def __init__(self, folder: Path, resumed_after: int | None = None) -> None:
        self._writer: Any = None
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError:
            log.info("TensorBoard is off: pip install tensorboard turns it on")
            return
        purge = None if resumed_after is None else resumed_after + 1
        writer: Any = SummaryWriter
        self._writer = writer(log_dir=str(folder), purge_step=purge)

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Write the numbers of a record; a nested one becomes `evaluation/accuracy`."""
        if self._writer is None:
            return
        for name, value in _numbers(values, ""):
            if name != "round":
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is buffered and close the event file."""
        if self._writer is not None:
            self._writer.close()


def versions() -> dict[str, str]:
    """Return versions of Python and of the packages that decide the numbers of a run.

    Written as `versions` into the first record of timing.jsonl, the report shows them.
    """
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _line(record: Mapping[str, Any]) -> bytes:
    plain = {key: _plain(value) for key, value in record.items()}
    return json.dumps(plain, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _plain(value: Any) -> Any:
    """Return `value` as JSON has it: numpy and torch scalars unwrapped, nested keys sorted."""
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if not isinstance(value, str | int | float | None) and hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield prefix + name, value


def _complete_lines(path: Path) -> Iterator[tuple[bytes, Record]]:
    with path.open("rb") as file:
        broken = 0
        for number, raw in enumerate(file, start=1):
            if broken:
                raise CheckpointError(
                    f"{path} line {broken} is not a JSON record; expected one per line. Only the "
                    "last line may be torn: restore the file, or start a run with a new run.name"
                )
            try:
                record = json.loads(raw) if raw.endswith(b"\n") else None
            except ValueError:
                record = None
            if isinstance(record, dict):
                yield raw, record
            else:
                broken = number


def _drop_torn_end(path: Path) -> None:
    """Cut the file after its last newline, reading from the end: a ledger may be large."""
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        keep, block = end, 1 << 16
        while keep > 0:
            start = max(0, keep - block)
            file.seek(start)
            found = file.read(keep - start).rfind(b"\n")
            if found >= 0:
                keep = start + found + 1
                break
            keep = start
        if keep < end:
            file.truncate(keep)
