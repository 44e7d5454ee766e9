"""State that stays on the device from job to job: the local optimizer, saved under (client, job).

The server names the client's last job that it accepted (`state_from`); a job whose reply was lost
therefore starts from the state before it, not from its own. The last two are kept.
"""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedllm_app.core.job import Job

KEPT = 2


def _folder(root: Path, client: str) -> Path:
    # A client's id is any string, so the folder is named by its digest.
    return root / hashlib.blake2b(client.encode(), digest_size=12).hexdigest()


def load_kept(root: Path, job: Job, optimizer: torch.optim.Optimizer, theta: Tensor) -> None:
    """Restore the optimizer's state after `job.state_from`; a fresh start where there is none."""
    path = _folder(root, job.client) / f"job-{job.state_from:08d}.safetensors"
    if job.state_from < 0 or not path.exists():
        return
    state = load_file(path)
    if all(t.ndim == 0 or t.shape == theta.shape for t in state.values()):
        optimizer.state[theta] = state


def save_kept(root: Path, job: Job, optimizer: torch.optim.Optimizer, theta: Tensor) -> None:
    """Save the optimizer's state as that after `job`, and drop all but the last two."""
    folder = _folder(root, job.client)
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v for k, v in optimizer.state[theta].items() if isinstance(v, Tensor)}
    path = folder / f"job-{job.id:08d}.safetensors"
    temporary = path.with_suffix(".tmp")
    save_file(state, temporary)
    temporary.rename(path)
    # The accepted state must outlive jobs whose replies were lost.
    others = [p for p in sorted(folder.glob("job-*.safetensors")) if p != path]
    accepted = folder / f"job-{job.state_from:08d}.safetensors"
    for old in others:
        if old != accepted:
            old.unlink()
