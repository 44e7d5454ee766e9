"""FedAdam, FedYogi and FedAdagrad (Reddi et al. 2021, arXiv 2003.00295, Algorithm 2).

With g the mean change of a round, which points uphill:

    m <- beta1 m + (1 - beta1) g
    v <- v + g^2                                 fedadagrad
    v <- v - (1 - beta2) g^2 sign(v - g^2)       fedyogi
    v <- beta2 v + (1 - beta2) g^2               fedadam
    P <- P - lr m / (sqrt(v) + tau)              v begins as tau^2

Nothing corrects the bias of m and v, which is where it differs from torch's Adam.

Shapes: P parameters.
"""

from typing import Any

import torch
from torch import Tensor

from fedllm_app.server.by_tensor import ByTensor


class Adaptive(ByTensor):
    """One of the three.

    Parameters
    ----------
    params : tensors of shape (P,).
    name : "fedadam", "fedyogi" or "fedadagrad".
    lr : learning rate.
    betas : decay rates of m and of v.
    tau : degree of adaptivity.
    weight_decay : is added to every gradient, times the parameters, as in torch's SGD.
    """

    def __init__(
        self,
        params: list[Tensor],
        name: str,
        lr: float,
        betas: tuple[float, float],
        tau: float,
        weight_decay: float,
    ) -> None:
        own = {"name": name, "betas": betas, "tau": tau, "weight_decay": weight_decay}
        super().__init__(params, {"lr": lr} | own)

    def _step(self, params: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, tau, (beta1, beta2) = self.state[params], group["tau"], group["betas"]
        if not state:
            state["exp_avg"] = torch.zeros_like(params)
            state["exp_avg_sq"] = torch.zeros_like(params)
        m, v = state["exp_avg"], state["exp_avg_sq"]
        # A zero is a coordinate that has not been stepped, or was set to zero with its momenta.
        v.masked_fill_(v == 0, tau * tau)
        square = gradient * gradient
        m.mul_(beta1).add_(gradient, alpha=1 - beta1)
        if group["name"] == "fedadagrad":
            v.add_(square)
        elif group["name"] == "fedyogi":
            v.addcmul_(square, torch.sign(v - square), value=beta2 - 1)
        else:
            v.mul_(beta2).add_(square, alpha=1 - beta2)
        params.addcdiv_(m, v.sqrt().add_(tau), value=-group["lr"])
