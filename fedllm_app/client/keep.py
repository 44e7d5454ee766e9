"""State that stays on the device from job to job: the local optimizer, saved under (client, job).

The server names the client's last job that it accepted (`state_from`); a job whose reply was lost
therefore starts from the state before it, not from its own. It also names the last one that its
newest checkpoint holds (`saved`): a server that was killed goes back to that.
"""

import hashlib
import logging
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedllm_app.core.job import Job

log = logging.getLogger("fedllm")


def load_kept(root: Path, job: Job, optimizer: torch.optim.Optimizer, theta: Tensor) -> None:
    """Restore the optimizer's state after `job.state_from`; a fresh start where there is none."""
    path = _file(root, job.client, job.state_from)
    if job.state_from < 0:
        return
    state = load_file(path) if path.exists() else None
    if state is None or any(t.ndim and t.shape != theta.shape for t in state.values()):
        log.warning(
            "client %s: no optimizer state of job %d; it starts fresh", job.client, job.state_from
        )
        return
    optimizer.state[theta] = state


def save_kept(root: Path, job: Job, optimizer: torch.optim.Optimizer, theta: Tensor) -> None:
    """Save the optimizer's state as that after `job`; drop those that cannot be asked for again."""
    path = _file(root, job.client, job.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {k: v for k, v in optimizer.state[theta].items() if isinstance(v, Tensor)}
    temporary = path.with_suffix(".tmp")
    save_file(state, temporary)
    temporary.rename(path)
    needed = {_file(root, job.client, id_) for id_ in (job.state_from, job.saved)}
    for old in path.parent.glob("job-*.safetensors"):
        # A late job must not remove what a newer one has saved.
        if old.name < path.name and old not in needed:
            old.unlink(missing_ok=True)


def _file(root: Path, client: str, job: int) -> Path:
    # A client's id is any string, so the folder is named by its digest.
    folder = hashlib.blake2b(client.encode(), digest_size=12).hexdigest()
    return root / folder / f"job-{job:08d}.safetensors"
