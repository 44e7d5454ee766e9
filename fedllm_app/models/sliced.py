"""Linear layers of which some rows or columns are trained: no gradient of the rest is computed.

Autograd knows whole tensors. Here the pass backward multiplies only the rows or columns that are
trained and adds them to the weight's gradient; of the input it keeps only the columns it needs.

Shapes: x (..., inputs), W (outputs, inputs), y (..., outputs); Conv1D has W (inputs, outputs).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.region import Region

Ranges = Sequence[tuple[int, int]]


class _Sliced(torch.autograd.Function):
    """y = x W' + b, with the gradient of ranges of the outputs or of the inputs of W."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, outputs: bool, ranges: Ranges,
        turned: bool,
    ) -> Tensor:  # fmt: skip
        """Keep what the pass backward needs; `turned`: W is (inputs, outputs)."""
        ctx.outputs, ctx.ranges, ctx.turned, ctx.weight = outputs, ranges, turned, weight
        ctx.has_bias = bias is not None
        inputs = [x] if outputs else [x[..., a:b].clone() for a, b in ranges]
        ctx.save_for_backward(weight, *inputs)
        return functional.linear(x, weight.t() if turned else weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Return the gradients of x and b; that of W is added where it lies."""
        g = gradients[0]
        weight, *inputs = ctx.saved_tensors
        W = (weight.t() if ctx.turned else weight).to(g.dtype)
        down = g @ W if ctx.needs_input_grad[0] else None
        flat_g = g.reshape(-1, g.shape[-1])
        if ctx.needs_input_grad[1] and ctx.weight.grad is not None:
            into = ctx.weight.grad.t() if ctx.turned else ctx.weight.grad
            if ctx.outputs:
                x = inputs[0].reshape(len(flat_g), -1).to(g.dtype)
                for a, b in ctx.ranges:
                    into[a:b].add_(flat_g[:, a:b].t() @ x)
            else:
                for (a, b), x in zip(ctx.ranges, inputs, strict=True):
                    into[:, a:b].add_(flat_g.t() @ x.reshape(len(flat_g), -1).to(g.dtype))
        own = flat_g.sum(0) if ctx.has_bias and ctx.needs_input_grad[2] else None
        return down, None, own, None, None, None


def slice_layer(layer: nn.Module, axis: int, ranges: Ranges) -> None:
    """Have a layer compute the gradient of these ranges along an axis of its weight alone.

    The weight has its gradient tensor already, and a caller looks at those ranges only.
    """
    turned = isinstance(layer, Conv1D)
    outputs = (axis == 0) != turned
    rows = tuple(ranges)

    def forward(x: Tensor) -> Tensor:
        weight: Tensor = layer.get_parameter("weight")
        own: Any = layer.bias
        bias: Tensor | None = own
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        if not torch.is_grad_enabled():
            return functional.linear(x, weight.t() if turned else weight, bias)
        y: Tensor = _Sliced.apply(  # type: ignore[no-untyped-call]
            x, weight, bias, outputs, rows, turned
        )
        return y

    layer.forward = forward


def whole_layer(layer: nn.Module) -> None:
    """Undo `slice_layer`."""
    layer.__dict__.pop("forward", None)


def can_be_sliced(layer: nn.Module) -> bool:
    """Say whether a layer is linear, and no subclass that does something else."""
    return type(layer) in (nn.Linear, Conv1D)


def slice_layers(
    model: nn.Module, tensors: Mapping[str, nn.Parameter], layout: ParamLayout, where: Region
) -> list[nn.Module]:
    """Have every linear layer of which a part is trained compute that part's gradient alone.

    A weight that several modules share is left whole.

    Parameters
    ----------
    tensors : the trainable tensors, in the order of the layout.

    Returns
    -------
    The layers that were changed, for `whole_layer`.
    """
    parts = {piece.start: piece for piece in where.pieces}
    owners: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(module)
    changed = []
    for parameter, start, shape in zip(
        tensors.values(), layout.offsets, layout.shapes, strict=True
    ):
        piece, own = parts.get(start), owners.get(id(parameter), [])
        if piece is None or len(shape) != 2 or len(own) != 1 or not can_be_sliced(own[0]):
            continue
        axis = 0 if piece.outer == 1 else 1
        if own[0].weight is parameter and piece.size < parameter.numel():
            slice_layer(own[0], axis, piece.ranges)
            changed.append(own[0])
    return changed
