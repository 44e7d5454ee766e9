"""The gradient of one batch: in one pass or in several, in float32 or in mixed precision.

A batch that is too large for memory goes through the model some rows at a time. The gradient is
that of the mean over the units of the whole batch, not a mean of means: rows may differ in their
units (tokens that are predicted).

Shapes: B rows in a batch.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor

log = logging.getLogger("fedllm")
Batch = dict[str, Tensor]
Loss = Callable[[Batch], tuple[Tensor, int]]


def mean_gradient(
    loss_of: Loss, batch: Batch, grad: Tensor, micro: int, autocast: str
) -> tuple[Tensor, int]:
    """Add the gradient of a batch's mean loss to the model's; return that mean and its units.

    Parameters
    ----------
    loss_of : mean loss of rows, with its graph, and the number of units it is over.
    batch : tensors of B rows.
    grad : where the gradient is collected; zero before.
    micro : rows of a pass, 0 for all; as in client.micro-batch.
    autocast : as in client.autocast.
    """
    device = grad.device.type
    if not micro or micro >= len(next(iter(batch.values()))):
        with mixed(autocast, device):
            loss, units = loss_of(batch)
        torch.autograd.backward(loss)
        return loss.detach().float(), units
    total, units = torch.zeros((), device=grad.device), 0
    for part in rows_of(batch, micro):
        with mixed(autocast, device):
            loss, count = loss_of(part)
        if count:  # the mean over nothing is no number
            torch.autograd.backward(loss * count)
            total += loss.detach().float() * count
            units += count
    grad /= max(units, 1)
    return total / max(units, 1), units


def rows_of(batch: Batch, micro: int) -> Iterator[Batch]:
    """Yield a batch in parts of at most `micro` rows.

    Raises
    ------
    ValueError
        If its tensors do not have the same number of rows.
    """
    counts = {name: len(tensor) for name, tensor in batch.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(
            f"client.micro-batch is {micro}, and the tensors of a batch have unequal numbers of "
            f"rows, {counts}; expected a task whose batches can be cut by rows, or 0"
        )
    for start in range(0, next(iter(counts.values())), micro):
        yield {name: tensor[start : start + micro] for name, tensor in batch.items()}


def mixed(autocast: str, device: str) -> AbstractContextManager[object]:
    """Return the context of a forward pass and its loss, as client.autocast asks."""
    if not autocast or not _has_bfloat16(device):
        return nullcontext()
    return torch.autocast(device, dtype=torch.bfloat16)


@cache
def _has_bfloat16(device: str) -> bool:
    """Return whether a device multiplies bfloat16 itself; one that does not is told of once."""
    if device == "cuda":
        found = bool(torch.cuda.is_bf16_supported())
    elif device == "cpu":
        able = torch.cpu.get_capabilities()
        if able.get("architecture") == "x86_64":
            found = bool(able.get("avx512_bf16") or able.get("amx_bf16"))
        else:
            found = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    else:
        found = True
    if not found:
        log.warning(
            "client.autocast is 'bfloat16', and this %s does not multiply bfloat16 by itself, so "
            "that it would be slower than float32: it computes in float32",
            "processor" if device == "cpu" else device,
        )
    return found
