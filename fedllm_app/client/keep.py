"""State that stays on the device from job to job, saved under (client, job).

That is the local optimizer's, and the residual: what a sparse upload left out. The server names
the client's last job that it accepted (`state_from`); a job whose reply was lost therefore starts
from the state before it, not from its own. It also names the last one that its newest checkpoint
holds (`saved`): a server that was killed goes back to that.

Shapes: P parameters that the device holds, K coordinates that may move.
"""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from fedllm_app.core.files import replacing
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
    with replacing(path) as file:
        file.write(save(dict(state)))
    needed = {_file(root, job.client, id_) for id_ in (job.state_from, job.saved)}
    for old in path.parent.glob("job-*.safetensors"):
        # A late job must not remove what a newer one has saved.
        if old.name < path.name and old not in needed:
            old.unlink(missing_ok=True)


def restore(
    optimizer: torch.optim.Optimizer,
    theta: Tensor,
    index: Tensor | None,
    kept: Mapping[str, Tensor],
) -> None:
    """Give an optimizer over `theta` the state that its coordinates had.

    Parameters
    ----------
    index : which of P coordinates `theta`, shape (K,), is; None for all.
    kept : tensors of shape (P,) and single numbers.
    """
    state = optimizer.state[theta]
    for name, tensor in kept.items():
        if name.startswith(OPTIMIZER):
            if tensor.ndim:  # a count of steps stays on the CPU, where torch looks for it
                tensor = (tensor if index is None else tensor[index.cpu()]).to(theta.device)
            state[name.removeprefix(OPTIMIZER)] = tensor


def of_optimizer(
    optimizer: torch.optim.Optimizer,
    theta: Tensor,
    index: Tensor | None,
    kept: Mapping[str, Tensor],
    P: int,
) -> dict[str, Tensor]:
    """Return the state to keep: of the coordinates that moved anew, of the others as it was."""
    state: dict[str, Tensor] = {}
    for name, value in optimizer.state[theta].items():
        if not isinstance(value, Tensor):
            continue
        if index is not None and value.shape == theta.shape:
            before = kept.get(OPTIMIZER + name)
            whole = torch.zeros(P) if before is None else before.clone()
            whole[index.cpu()] = value.cpu()
            value = whole
        state[OPTIMIZER + name] = value.cpu()
    return state


def fitting(kept: Mapping[str, Tensor], P: int, client: str) -> Mapping[str, Tensor]:
    """Return kept state, or nothing where it is of another number of coordinates than P."""
    if any(tensor.ndim and tensor.shape != (P,) for tensor in kept.values()):
        log.warning("client %s: what it kept has another length; it starts fresh", client)
        return {}
    return kept


def _file(root: Path, client: str, job: int) -> Path:
    # A client's id is any string, so the folder is named by its digest.
    folder = hashlib.blake2b(client.encode(), digest_size=12).hexdigest()
    return root / folder / f"job-{job:08d}.safetensors"
