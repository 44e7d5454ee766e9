"""Delayed Nesterov: momentum for asynchronous steps (Liu et al. 2024, arXiv 2401.09135).

Where the server steps whenever an update comes, a momentum applied at every step would count stale
updates many times over. Here N - 1 steps are plain descent, and the N-th applies the momentum, to
the mean of all N: N steps on equal models move the parameters as one Nesterov step on their mean.

    sum <- sum + g
    every N-th step:   m <- beta m + sum / N ;  P <- P - lr (beta m + g / N) ;  sum <- 0
    any other:         P <- P - lr g / N

Shapes: P parameters.
"""

from typing import Any

import torch
from torch import Tensor

from fedllm_app.server.by_tensor import ByTensor


class DelayedNesterov(ByTensor):
    """The optimizer.

    Parameters
    ----------
    params : tensors of shape (P,).
    lr : learning rate.
    momentum : beta, in [0, 1).
    period : N. 1 is Nesterov's momentum at every step.
    weight_decay : is added to every gradient, times the parameters, as in torch's SGD.
    """

    def __init__(
        self, params: list[Tensor], lr: float, momentum: float, period: int, weight_decay: float
    ) -> None:
        own = {"momentum": momentum, "period": period, "weight_decay": weight_decay}
        super().__init__(params, {"lr": lr} | own)

    def _step(self, params: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, N = self.state[params], group["period"]
        if not state:
            state["step"] = torch.zeros(())
            state["sum"] = torch.zeros_like(params)
            state["momentum_buffer"] = torch.zeros_like(params)
        state["step"] += 1
        state["sum"].add_(gradient)
        change = gradient / N
        if int(state["step"]) % N == 0:
            momentum = state["momentum_buffer"].mul_(group["momentum"])
            momentum.add_(state["sum"], alpha=1 / N)
            change.add_(momentum, alpha=group["momentum"])
            state["sum"].zero_()
        params.add_(change, alpha=-group["lr"])
