"""The local optimizers by name: torch's own, over groups with and without weight decay."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fedllm_app.client.settings import ClientSettings

Make = Callable[[list[dict[str, Any]], ClientSettings], torch.optim.Optimizer]


def sgd(groups: list[dict[str, Any]], settings: ClientSettings) -> torch.optim.Optimizer:
    """Return stochastic gradient descent with momentum."""
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)


def adamw(groups: list[dict[str, Any]], settings: ClientSettings) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov and Hutter 2019)."""
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=betas, eps=settings.eps)


OPTIMIZERS: dict[str, Make] = {"sgd": sgd, "adamw": adamw}
# What torch keeps of each coordinate where it begins with zeros, beside a count of steps.
MOMENTS = {"adamw": ("exp_avg", "exp_avg_sq")}


def first_state(settings: ClientSettings, P: int) -> dict[str, Tensor]:
    """Return the state that an optimizer begins with, {} where torch makes it at the first step.

    The same numbers as torch's own, in one vector of shape (P,) for each name.
    """
    moments = MOMENTS.get(settings.optimizer, ())
    return {name: torch.zeros(P) for name in moments} | (
        {"step": torch.zeros(())} if moments else {}
    )


def local_optimizer(
    settings: ClientSettings, parts: list[Tensor], decays: list[bool]
) -> torch.optim.Optimizer:
    """Return a fresh local optimizer.

    Parameters
    ----------
    parts : the tensors that it steps.
    decays : for each part, whether weight decay is for it.
    """
    groups = []
    for wanted, decay in ((True, settings.weight_decay), (False, 0.0)):
        chosen = [part for part, has in zip(parts, decays, strict=True) if has == wanted]
        if chosen:
            groups.append({"params": chosen, "weight_decay": decay})
    return OPTIMIZERS[settings.optimizer](groups, settings)
