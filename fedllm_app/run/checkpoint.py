"""The server's state on disk: one file per checkpoint, written so that a kill cannot tear it.

Tensors are the parameters, the optimizer's and the method's; everything else is JSON in the
file's metadata. A file appears whole under its name or not at all (temporary file, fsync, rename).
What damages it afterwards, its checksum finds: a run then goes on from the one before.
"""

import fcntl
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedllm_app.core.errors import CheckpointError
from fedllm_app.core.state import RunState
from fedllm_app.core.tensorfile import load_tensors, save_tensors

log = logging.getLogger("fedllm")
CHECKPOINTS = 2  # the newest that stay
VERSION = 3
METHOD, DOWNLOADS, OPEN = "method.", "downloads.", "open."
DAMAGED = ".damaged"  # added to the name of one that a run went back behind


@dataclass(frozen=True)
class Restored:
    """The newest whole checkpoint of a run.

    Attributes
    ----------
    path : its file.
    state, tensors : what it holds; the tensors are the parameters and the optimizer's.
    damaged : newer ones that are not whole, with what is wrong with each.
    """

    path: Path
    state: RunState
    tensors: dict[str, Tensor]
    damaged: Mapping[Path, str]


def save_state(folder: Path, state: RunState, tensors: Mapping[str, Tensor]) -> Path:
    """Write the state after `state.round`, and drop all but the newest two checkpoints.

    Parameters
    ----------
    tensors : the parameters and the optimizer's.
    """
    path = folder / f"round-{state.round:08d}.safetensors"
    arrays = {METHOD: state.method, DOWNLOADS: state.downloads, OPEN: state.open_vectors()}
    own = {p + n: torch.from_numpy(a) for p, named in arrays.items() for n, a in named.items()}
    save_tensors(path, {**tensors, **own}, {"version": VERSION, "state": state.to_json()})
    for old in checkpoints(folder)[CHECKPOINTS:]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints there are, whole or not, the newest first."""
    return sorted(folder.glob("round-*.safetensors"), reverse=True)


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint, or None."""
    return max(folder.glob("round-*.safetensors"), default=None)


def newest_whole(folder: Path) -> Restored | None:
    """Return the newest checkpoint that can be read, or None where there is none at all.

    Raises
    ------
    CheckpointError
        If there are some and none can be read; the message says of each what is wrong.
    """
    damaged: dict[Path, str] = {}
    for path in checkpoints(folder):
        try:
            state, tensors = load_state(path)
        except CheckpointError as error:
            damaged[path] = str(error)
            continue
        return Restored(path, state, tensors, damaged)
    if damaged:
        raise CheckpointError(
            f"{'; '.join(damaged.values())}. No other checkpoint is there: put a whole one back, "
            "or start a run with a new run.name"
        )
    return None


def set_aside(restored: Restored) -> None:
    """Say which checkpoints a run goes back behind, and take them out of the way."""
    for path, why in restored.damaged.items():
        path.replace(path.with_name(path.name + DAMAGED))
        log.warning(
            "%s. It is kept as %s; the run goes back to the checkpoint after round %d",
            why, path.name + DAMAGED, restored.state.round,
        )  # fmt: skip


def load_state(path: Path) -> tuple[RunState, dict[str, Tensor]]:
    """Return a checkpoint's state, and the tensors of the parameters and the optimizer.

    Raises
    ------
    CheckpointError
        If the file is damaged, not one of ours, or of an earlier version.
    """
    tensors, words = load_tensors(path)
    if words.get("version") != VERSION:
        raise CheckpointError(
            f"{path} was written by another version of fedllm (format {words.get('version')!r}; "
            f"expected {VERSION}); start a run with a new run.name"
        )
    arrays = [
        {n.removeprefix(p): t.numpy() for n, t in tensors.items() if n.startswith(p)}
        for p in (METHOD, DOWNLOADS, OPEN)
    ]
    try:
        state = RunState.from_json(words["state"], *arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of fedllm: {error!r}") from None
    return state, {n: t for n, t in tensors.items() if not n.startswith((METHOD, DOWNLOADS, OPEN))}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run's folder for one process; the system frees it when the process ends.

    Raises
    ------
    CheckpointError
        If another process holds it.
    """
    path, held = folder / "lock", False
    while not held:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CheckpointError(
                    f"{folder} is in use by another run; choose another run.name or wait"
                ) from None
            # A run that was refused has removed its folder, and the lock that was free with it.
            held = _is_still(file.fileno(), path)
            if held:
                yield


def _is_still(handle: int, path: Path) -> bool:
    """Say whether an open file is the one that has this name now."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False
