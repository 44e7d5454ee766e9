"""Server state on disk: one safetensors file per checkpoint, written so that a kill cannot tear it.

Tensors are the parameters, the optimizer's and the method's; everything else is JSON in the
file's metadata. A file appears whole under its name or not at all (temporary file, fsync, rename).
"""

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedllm_app.core.errors import CheckpointError
from fedllm_app.core.files import replacing

KEPT = 2


@dataclass
class Progress:
    """All of the server's state that is not a tensor.

    Attributes
    ----------
    round : last finished round.
    clock : local steps asked of a client so far, for schedules.
    accepted : the last job of each client whose reply was accepted.
    totals : the ledger's totals.
    evaluation : the latest evaluation, headline first.
    late : uploads that may still come after their round: client, job, most bytes.
    simulated_s : seconds of all rounds by the clock of `network`, 0 without one.
    seconds, slowest_s : running time over all resumes, the slowest round's; outside the promise of
        equal bits.
    finished : why the run ended, empty while it has not.
    """

    round: int = 0
    clock: int = 0
    accepted: dict[str, int] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    evaluation: dict[str, float] = field(default_factory=dict)
    late: list[tuple[str, int, int]] = field(default_factory=list)
    simulated_s: float = 0.0
    seconds: float = 0.0
    slowest_s: float = 0.0
    finished: str = ""


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], progress: Progress) -> Path:
    """Write the state after `progress.round` and drop all but the last two checkpoints."""
    path = folder / f"round-{progress.round:08d}.safetensors"
    payload = save(dict(tensors), metadata={"fedllm": json.dumps(asdict(progress))})
    with replacing(path) as file:
        file.write(payload)
    for old in sorted(folder.glob("round-*.safetensors"))[:-KEPT]:
        old.unlink()
    return path


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint, or None."""
    return max(folder.glob("round-*.safetensors"), default=None)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], Progress]:
    """Read a checkpoint.

    Raises
    ------
    CheckpointError
        If the file is damaged or not one of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            words: dict[str, Any] = json.loads((file.metadata() or {})["fedllm"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        return tensors, Progress(**words)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of fedllm ({error}); remove it"
        ) from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run's folder for one process; the system frees it when the process ends.

    Raises
    ------
    CheckpointError
        If another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CheckpointError(
                f"{folder} is in use by another run; choose another run.name or wait"
            ) from None
        yield
