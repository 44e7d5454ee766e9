"""What one local step computes, counted on a real batch by torch's own counter.

Multiplications and additions of matrix products and convolutions count, as in torch's
FlopCounterMode; what is done element by element does not. A step is one pass forward and one
backward. The backward pass has two halves: the gradients that go on to the layer below, which
every model needs down to its lowest trained tensor, and those of the trained tensors themselves.
A device that trains a share of the tensors saves that share of the second half alone.
What a step holds in memory is counted in memory.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fedllm_app.models.trainable import TrainableModel

Loss = Callable[[Tensor, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class StepCost:
    """One example's part of a step.

    Attributes
    ----------
    forward : FLOPs of the pass forward.
    through : FLOPs of the gradients that go on to the layer below.
    weights : FLOPs of the gradients of all trainable tensors.
    """

    forward: float
    through: float
    weights: float

    @property
    def gradient_part(self) -> float:
        """What part of a step's FLOPs the gradients of the trained tensors are."""
        return self.weights / self.flops() if self.weights else 0.0

    def flops(self, share: float = 1.0) -> float:
        """Return the FLOPs of an example where this share of the trainable values is trained."""
        return self.forward + self.through + share * self.weights


def step_cost(model: TrainableModel, batch: Mapping[str, Tensor], loss: Loss) -> StepCost:
    """Return what an example of this batch costs, its padding included.

    The model's values, gradients and modes are as before.

    Parameters
    ----------
    batch : of B rows, as the task collates them.
    loss : of logits and batch.
    """
    B, module = len(next(iter(batch.values()))), model.model
    training = module.training
    module.train()
    gradient = model.grad.clone()
    try:
        with torch.random.fork_rng(devices=[]):
            forward, both = _counted(model, batch, loss)
            frozen = _without_weights(model, batch, loss)
    finally:
        module.train(training)
        model.zero_grad()
        model.grad.copy_(gradient)
    weights = max(0, both - frozen)
    return StepCost(forward / B, (both - forward - weights) / B, weights / B)


def _counted(model: TrainableModel, batch: Mapping[str, Tensor], loss: Loss) -> tuple[int, int]:
    """Return the FLOPs of the pass forward, and of both."""
    # The other ways to attend are fused into operations that the counter does not know on a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        value = loss(model.logits(batch), batch)
        forward = counter.get_total_flops()
        torch.autograd.backward(value)
        return forward, counter.get_total_flops()


def _without_weights(model: TrainableModel, batch: Mapping[str, Tensor], loss: Loss) -> int:
    """Return the FLOPs of both passes where no tensor is trained, only what goes into layer one."""
    tensors = [p for p in model.model.parameters() if p.requires_grad]
    embedding: nn.Module = model.backbone.get_input_embeddings()
    hook = embedding.register_forward_hook(lambda _module, _in, out: out.requires_grad_())
    for tensor in tensors:
        tensor.requires_grad_(False)
    try:
        return _counted(model, batch, loss)[1]
    finally:
        hook.remove()
        for tensor in tensors:
            tensor.requires_grad_()
