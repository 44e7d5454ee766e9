"""What optimizers of ours share: a step is one of each tensor by itself, its weight decay added.

Shapes: P parameters.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor


class ByTensor(torch.optim.Optimizer, ABC):
    """An optimizer that says how one tensor steps.

    Its groups have `weight_decay`, which is added to every gradient, times the parameters, as in
    torch's SGD.
    """

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step on the gradients; a closure is not called."""
        for group in self.param_groups:
            for params in group["params"]:
                if (gradient := params.grad) is not None:
                    if group["weight_decay"]:
                        gradient = gradient.add(params, alpha=group["weight_decay"])
                    self._step(params, gradient, group)
        return None

    @abstractmethod
    def _step(self, params: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Step a tensor of shape (P,) on its gradient, which is not changed."""
