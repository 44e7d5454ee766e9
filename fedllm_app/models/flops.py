"""What one local step computes, counted on a real batch by torch's own counter.

Multiplications and additions of matrix products and convolutions count, as in torch's
FlopCounterMode; what is done element by element does not. A step is one pass forward and one
backward. Each operation of the pass backward is put down to the trainable tensors that it is for:
one, where it makes the gradient of that tensor; those above which it lies, where it makes the
gradient of activations, which torch leaves out once none of them is trained. So a device that
trains a part of the model is charged for what torch computes then.
What a step holds in memory is counted in memory.py.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.region import Region, Where
from fedllm_app.models.trainable import TrainableModel

Loss = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
CONVOLUTION = "ConvolutionBackward0"
# Which inputs of an operation have gradients that cost a product; of all others each has.
PRODUCTS = {"AddmmBackward0": (1, 2), "BaddbmmBackward0": (1, 2), CONVOLUTION: (0, 1)}


@dataclass(frozen=True)
class StepCost:
    """One example's part of a step.

    Attributes
    ----------
    forward : FLOPs of the pass forward.
    backward : FLOPs of gradients by the tensors that they are for, as bits: tensor i of the layout
        is bit i. They are computed where any of these is trained.
    layout : of the tensors.
    """

    forward: float
    backward: Mapping[int, float]
    layout: ParamLayout

    @property
    def weights(self) -> float:
        """FLOPs of the gradients of all trainable tensors."""
        return sum(cost for bits, cost in self.backward.items() if bits.bit_count() == 1)

    def flops(self, where: Where = None, layout: ParamLayout | None = None) -> float:
        """Return the FLOPs of an example where these coordinates are trained.

        Parameters
        ----------
        layout : that they are of, where the adapters have another rank.
        """
        shares = trained_shares(where, layout or self.layout)
        trained = sum(1 << i for i, share in enumerate(shares) if share)
        backward = 0.0
        for bits, cost in self.backward.items():
            if bits.bit_count() == 1:
                backward += shares[bits.bit_length() - 1] * cost
            elif bits & trained:
                backward += cost
        return self.forward + backward

    def part(self, where: Where, layout: ParamLayout) -> float:
        """Return what part of a step that trains all is computed where these are trained."""
        return 1.0 if where is None else self.flops(where, layout) / self.flops()


def trained_shares(where: Where, layout: ParamLayout) -> list[float]:
    """Return of each tensor the share whose gradient a device computes.

    Slices of a tensor are computed alone; among scattered positions one that holds any is computed
    whole.
    """
    if where is None:
        return [1.0] * len(layout.sizes)
    if isinstance(where, Region):
        held = {piece.start: piece.size for piece in where.pieces}
        both = zip(layout.offsets, layout.sizes, strict=True)
        return [held.get(at, 0) / size if size else 0.0 for at, size in both]
    counts = np.diff(np.searchsorted(where, (*layout.offsets, layout.size)))
    return [float(count > 0) for count in counts]


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
    model.freeze_outside(None)
    gradient = model.grad.clone()
    try:
        with torch.random.fork_rng(devices=[]):
            forward, backward = _counted(model, batch, loss)
    finally:
        module.train(training)
        model.zero_grad()
        model.grad.copy_(gradient)
    each = {bits: cost / B for bits, cost in backward.items()}
    return StepCost(forward / B, each, model.layout)


def _counted(
    model: TrainableModel, batch: Mapping[str, Tensor], loss: Loss
) -> tuple[int, Mapping[int, float]]:
    """Return the FLOPs of the pass forward, and of the pass backward by tensors."""
    own = {id(p): 1 << i for i, p in enumerate(model.tensors)}
    # The other ways to attend are fused into operations that the counter does not know on a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        value = loss(model.logits(batch), batch)
        forward = counter.get_total_flops()
        above, spent, parts = _above(value.grad_fn, own), Counter[Any](), dict[Any, list[int]]()
        for node in above:
            if node.name() == CONVOLUTION:
                node.register_prehook(_divided(parts, node))
            node.register_prehook(_noted(spent, node, counter, -1))
            node.register_hook(_noted(spent, node, counter, 1))
        torch.autograd.backward(value)
    found = dict[int, float]()
    for node, cost in spent.items():
        ways = dict(enumerate(source for source, _ in node.next_functions))
        products = PRODUCTS.get(node.name(), tuple(ways))
        shares = dict(zip(products, parts.get(node, [1] * len(products)), strict=True))
        needed = {i: shares[i] for i in products if ways.get(i) is not None}
        for i, share in needed.items():
            bits = above[ways[i]]
            found[bits] = found.get(bits, 0.0) + cost * share / sum(needed.values())
    return forward, {bits: cost for bits, cost in found.items() if cost}


def _noted(
    spent: Counter[Any], node: Any, counter: FlopCounterMode, sign: int
) -> Callable[..., None]:
    """Return a hook that adds what was counted until then to an operation, or takes it away."""

    def note(*_: object) -> None:
        spent[node] += sign * counter.get_total_flops()

    return note


def _divided(parts: dict[Any, list[int]], node: Any) -> Callable[..., None]:
    """Return a hook that notes what the gradients of input and weight of a convolution cost."""

    def note(gradients: Any) -> None:
        shapes = [t.shape for t in (gradients[0], node._saved_input, node._saved_weight)]
        how = (node._saved_stride, node._saved_padding, node._saved_dilation,
               node._saved_transposed, node._saved_output_padding, node._saved_groups)  # fmt: skip
        masks = ([True, False, False], [False, True, False])
        out = [shapes[1], shapes[2], None]
        count = flop_registry[torch.ops.aten.convolution_backward]
        tensors = [torch.empty(shape, device="meta") for shape in shapes]
        empty = [torch.empty(shape, device="meta") if shape else None for shape in out]
        parts[node] = [count(*tensors, None, *how, mask, out_val=empty) for mask in masks]

    return note


def _above(last: Any, own: Mapping[int, int]) -> dict[Any, int]:
    """Return of each operation of the pass backward the tensors that lie above it, as bits."""
    found: dict[Any, int] = {}
    waiting = [last]
    while waiting:
        node = waiting[-1]
        sources = list(_sources(node))
        if missing := [source for source in sources if source not in found]:
            waiting += missing
            continue
        waiting.pop()
        bits = own.get(id(getattr(node, "variable", None)), 0)
        for source in sources:
            bits |= found[source]
        found[node] = bits
    return found


def _sources(node: Any) -> Iterator[Any]:
    return (source for source, _ in node.next_functions if source is not None)
