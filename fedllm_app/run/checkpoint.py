"""The server's state on disk: one file per checkpoint, written so that a kill cannot tear it.

Tensors are the parameters, the optimizer's and the method's; everything else is JSON in the
file's metadata. A file appears whole under its name or not at all (temporary file, fsync, rename).
"""

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from fedllm_app.core.errors import CheckpointError
from fedllm_app.core.state import RunState
from fedllm_app.core.tensorfile import load_tensors, save_tensors

CHECKPOINTS = 2  # the newest that stay
VERSION = 2
METHOD, DOWNLOADS = "method.", "downloads."


def save_state(folder: Path, state: RunState, tensors: Mapping[str, Tensor]) -> Path:
    """Write the state after `state.round`, and drop all but the newest two checkpoints.

    Parameters
    ----------
    tensors : the parameters and the optimizer's.
    """
    path = folder / f"round-{state.round:08d}.safetensors"
    arrays = {METHOD: state.method, DOWNLOADS: state.downloads}
    own = {p + n: torch.from_numpy(a) for p, named in arrays.items() for n, a in named.items()}
    save_tensors(path, {**tensors, **own}, {"version": VERSION, "state": state.to_json()})
    for old in sorted(folder.glob("round-*.safetensors"))[:-CHECKPOINTS]:
        old.unlink()
    return path


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint, or None."""
    return max(folder.glob("round-*.safetensors"), default=None)


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
    method, downloads = (
        {n.removeprefix(p): t.numpy() for n, t in tensors.items() if n.startswith(p)}
        for p in (METHOD, DOWNLOADS)
    )
    try:
        state = RunState.from_json(words["state"], method, downloads)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of fedllm: {error!r}") from None
    return state, {n: t for n, t in tensors.items() if not n.startswith((METHOD, DOWNLOADS))}


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
