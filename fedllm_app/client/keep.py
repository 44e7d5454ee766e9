"""State that stays on the device from job to job, saved under (client, job).

That is the local optimizer's, and the residual: what a sparse upload left out. The server names
the client's last job that it accepted (`state_from`); a job whose reply was lost therefore starts
from the state before it, not from its own. It also names the last one that its newest checkpoint
holds (`saved`): a server that was killed goes back to that.

Shapes: P trainable parameters, K coordinates that may move.
"""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedllm_app.core.job import Job

log = logging.getLogger("fedllm")
OPTIMIZER, RESIDUAL = "optimizer.", "residual"


def load_kept(root: Path, job: Job) -> dict[str, Tensor]:
    """Return the state after `job.state_from`, {} where there is none."""
    if job.state_from < 0:
        return {}
    path = _file(root, job.client, job.state_from)
    if path.exists():
        return load_file(path)
    log.warning("client %s: no state of job %d; it starts fresh", job.client, job.state_from)
    return {}


def save_kept(root: Path, job: Job, state: Mapping[str, Tensor]) -> None:
    """Save the state as that after `job`; drop those that cannot be asked for again."""
    path = _file(root, job.client, job.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(dict(state), temporary)
    temporary.rename(path)
    needed = {_file(root, job.client, id_) for id_ in (job.state_from, job.saved)}
    for old in path.parent.glob("job-*.safetensors"):
        # A late job must not remove what a newer one has saved.
        if old.name < path.name and old not in needed:
            old.unlink(missing_ok=True)


def restore(
    optimizer: torch.optim.Optimizer, theta: Tensor, kept: Mapping[str, Tensor], client: str
) -> None:
    """Give an optimizer over `theta`, shape (K,), the state it had; one of other K is not used."""
    state = {
        name.removeprefix(OPTIMIZER): tensor
        for name, tensor in kept.items()
        if name.startswith(OPTIMIZER)
    }
    if any(t.ndim and t.shape != theta.shape for t in state.values()):
        log.warning("client %s: the optimizer moves other coordinates; it starts fresh", client)
        return
    optimizer.state[theta] = state


def of_optimizer(optimizer: torch.optim.Optimizer, theta: Tensor) -> dict[str, Tensor]:
    """Return the state of an optimizer over `theta` by the names it is kept under."""
    state = optimizer.state[theta].items()
    return {OPTIMIZER + name: value for name, value in state if isinstance(value, Tensor)}


def residual(kept: Mapping[str, Tensor], P: int, client: str) -> Tensor | None:
    """Return what the client's uploads have left out so far, float32 of shape (P,), or None."""
    left_P = kept.get(RESIDUAL)
    if left_P is not None and left_P.shape != (P,):
        log.warning("client %s: the residual has another length; it starts fresh", client)
        return None
    return left_P


def _file(root: Path, client: str, job: int) -> Path:
    # A client's id is any string, so the folder is named by its digest.
    folder = hashlib.blake2b(client.encode(), digest_size=12).hexdigest()
    return root / folder / f"job-{job:08d}.safetensors"
