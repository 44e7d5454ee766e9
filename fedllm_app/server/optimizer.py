"""The server's step: torch.optim on one flat tensor, with the mean delta as its gradient.

A delta is received minus trained, so it points uphill as a gradient does, and torch's optimizers
descend along it unchanged (Reddi et al. 2021). Bias correction, decay and momentum are torch's.

Shapes: P trainable parameters, K coordinates that may move.
"""

from collections.abc import Mapping
from itertools import zip_longest
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedllm_app.server.settings import ServerSettings


def torch_optimizer(settings: ServerSettings, params_P: Tensor) -> torch.optim.Optimizer:
    """Return torch's optimizer over one flat tensor, by resolved settings."""
    betas = (settings.beta1, settings.beta2)
    lr, eps, decay = settings.lr, settings.eps, settings.weight_decay
    if settings.optimizer == "adam":
        return torch.optim.Adam([params_P], lr=lr, betas=betas, eps=eps, weight_decay=decay)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW([params_P], lr=lr, betas=betas, eps=eps, weight_decay=decay)
    if settings.optimizer == "adagrad":
        return torch.optim.Adagrad([params_P], lr=lr, eps=eps, weight_decay=decay)
    return torch.optim.SGD(
        [params_P],
        lr=lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=decay,
    )


class ServerOptimizer:
    """The dense parameters and the optimizer that moves them.

    Parameters
    ----------
    settings : resolved settings.
    params_P : initial parameters, float32 of shape (P,); copied.
    """

    def __init__(self, settings: ServerSettings, params_P: np.ndarray) -> None:
        self._params = torch.from_numpy(params_P.astype(np.float32, copy=True))
        self._optimizer = torch_optimizer(settings, self._params)

    @property
    def params(self) -> np.ndarray:
        """The parameters, float32 of shape (P,), sharing memory: read only."""
        view: np.ndarray = self._params.numpy()
        return view

    def step(
        self,
        gradient_P: np.ndarray,
        within: np.ndarray | None = None,
        outside: Literal["keep", "zero"] = "keep",
    ) -> None:
        """Take one step.

        Parameters
        ----------
        gradient_P : mean delta, float32 of shape (P,).
        within : positions (K,) that may move, or None for all.
        outside : what the other coordinates and their momenta become: as before, or zero.
        """
        before = [] if within is None or outside == "zero" else [t.clone() for t in self._vectors()]
        self._params.grad = torch.from_numpy(gradient_P)
        self._optimizer.step()
        self._params.grad = None
        if within is None:
            return
        fixed_P = torch.ones(self._params.shape, dtype=torch.bool)
        fixed_P[torch.from_numpy(within)] = False
        # A momentum that did not exist before its first step was zero.
        for tensor, old in zip_longest(self._vectors(), before):
            tensor[fixed_P] = torch.zeros(()) if old is None else old[fixed_P]

    def _vectors(self) -> list[Tensor]:
        """Return the parameters and every optimizer tensor of the same shape."""
        state = self._optimizer.state[self._params].values()
        return [self._params] + [
            t for t in state if isinstance(t, Tensor) and t.shape == self._params.shape
        ]

    def tensors(self) -> dict[str, Tensor]:
        """Return all of the state as named tensors: what a checkpoint holds."""
        state = self._optimizer.state[self._params]
        named = {f"optimizer.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
        return {"params": self._params} | named

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` returned, bit for bit."""
        with torch.no_grad():
            self._params.copy_(tensors["params"])
        self._optimizer.state[self._params] = {
            name.removeprefix("optimizer."): tensor.clone()
            for name, tensor in tensors.items()
            if name.startswith("optimizer.")
        }
