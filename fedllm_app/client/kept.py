"""State that stays on the device from job to job, saved under (client, job).

That is the local optimizer's, a rule's own, the residual (what a sparse upload left out), the
download that a later one may go on from, and the device's own values, of which downloads replace
some. The server names the client's last job that it accepted
(`state_from`); a job whose reply was lost therefore starts from the state before it, not from its
own. It also names the last one that its newest checkpoint holds (`saved`) and the one before
(`earlier`): a server that was killed goes back to the newest that is whole.

State has kinds. By coordinate: one number for each parameter; of no use once their number has
changed. Opaque: of any shape, such as a count of steps.

Shapes: P parameters that the device holds.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from fedllm_app.core.errors import CheckpointError
from fedllm_app.core.job import Job
from fedllm_app.core.tensorfile import load_tensors, save_tensors
from fedllm_app.core.versions import DOWNLOAD

log = logging.getLogger("fedllm")
RESIDUAL = "residual"
VALUES = "values"
OWN, BASE = "own", "base"


@dataclass(frozen=True)
class Kept:
    """What one client keeps.

    Attributes
    ----------
    optimizer, rule : tensors by name, of shape (P,) or opaque.
    residual : float32 of shape (P,), or None.
    download : of the `Version` that came, or empty.
    values : the device's own, and those of the server that its change is measured against, float32
        of shape (P,) each; or empty.
    lost : the client has had an accepted job, and nothing of a rule's state is left of it.
    """

    optimizer: Mapping[str, Tensor] = field(default_factory=dict)
    rule: Mapping[str, Tensor] = field(default_factory=dict)
    residual: Tensor | None = None
    download: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, Tensor] = field(default_factory=dict)
    lost: bool = False

    def __bool__(self) -> bool:
        some = self.optimizer or self.rule or self.download or self.values
        return bool(some or self.residual is not None)


def load_kept(root: Path, job: Job, P: int) -> Kept:
    """Return the state after `job.state_from`, an empty one where there is none.

    Parameters
    ----------
    P : coordinates that the device holds now. State by coordinate of another number is left out,
        with all that belongs to it; the rest stays.
    """
    if job.state_from < 0:
        return Kept()
    path = _file(root, job.client, job.state_from)
    if not path.exists():
        log.warning("client %s: no state of job %d; it starts fresh", job.client, job.state_from)
        return Kept(lost=True)
    try:
        tensors, words = load_tensors(path)
        by_coordinate = set(words["by-coordinate"])
    except (CheckpointError, KeyError, TypeError) as error:
        log.warning("client %s: its state cannot be read (%s); it starts fresh", job.client, error)
        return Kept(lost=True)
    names_of = ("optimizer", "rule", RESIDUAL, DOWNLOAD, VALUES)
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in names_of}
    for name, tensor in tensors.items():
        part, _, own = name.partition(".")
        parts[part][own] = tensor
    for part, found in parts.items():
        names = {own: f"{part}.{own}".rstrip(".") for own in found}
        if any(found[own].shape != (P,) for own in found if names[own] in by_coordinate):
            log.warning(
                "client %s: the %s that it kept has another length; it starts fresh",
                job.client,
                part,
            )
            parts[part] = {}
    residual = parts[RESIDUAL].get("")
    optimizer, rule, lost = parts["optimizer"], parts["rule"], not parts["rule"]
    return Kept(optimizer, rule, residual, parts[DOWNLOAD], parts[VALUES], lost)


def save_kept(root: Path, job: Job, kept: Kept, P: int) -> None:
    """Save the state as that after `job`; drop those that cannot be asked for again."""
    path = _file(root, job.client, job.id)
    tensors = {f"optimizer.{n}": t for n, t in kept.optimizer.items()}
    tensors |= {f"rule.{n}": t for n, t in kept.rule.items()}
    tensors |= {f"{DOWNLOAD}.{n}": t for n, t in kept.download.items()}
    tensors |= {f"{VALUES}.{n}": t for n, t in kept.values.items()}
    if kept.residual is not None:
        tensors[RESIDUAL] = kept.residual
    by_coordinate = [name for name, tensor in tensors.items() if tensor.shape == (P,)]
    save_tensors(path, tensors, {"by-coordinate": by_coordinate})
    needed = {_file(root, job.client, id_) for id_ in (job.state_from, job.saved, job.earlier)}
    for old in path.parent.glob("job-*.safetensors"):
        # A late job must not remove what a newer one has saved.
        if old.name < path.name and old not in needed:
            old.unlink(missing_ok=True)


def _file(root: Path, client: str, job: int) -> Path:
    # A client's id is any string, so the folder is named by its digest.
    folder = hashlib.blake2b(client.encode(), digest_size=12).hexdigest()
    return root / folder / f"job-{job:08d}.safetensors"
