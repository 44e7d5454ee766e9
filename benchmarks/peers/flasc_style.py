"""Federated LoRA with masks in the style of FLASC's simulator (Kuo et al. 2024, arXiv 2406.05233).

One process. The whole model is copied for every client, every batch is padded to the longest row
that the task allows, sparsity is a dense mask of zeros and ones in both directions, and the server
steps with Adam on the mean of the masked deltas. torch has all cores as threads.

Shapes: P trainable parameters.
"""

import copy
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from benchmarks.peers.bare import Batch, Inputs, build, train, trainable

IGNORED = -100  # label of a position that is not predicted


def top_mask(values_P: Tensor, density: float) -> Tensor:
    """Return a dense mask (P,) of the `density` fraction of largest magnitude."""
    mask_P = torch.zeros_like(values_P)
    count = max(1, round(density * values_P.numel()))
    mask_P[torch.topk(values_P.abs(), count).indices] = 1.0
    return mask_P


def padded(batch: Batch, tokens: int, pad_id: int) -> Batch:
    """Return the batch with every row filled up to `tokens`."""
    fill = {"input_ids": pad_id, "attention_mask": 0, "labels": IGNORED}
    return {
        name: pad(t, (0, tokens - t.shape[1]), value=fill[name]) if t.dim() == 2 else t
        for name, t in batch.items()
    }


class FlascStyle:
    """The global model, and one round after the other.

    Parameters
    ----------
    model : holds the initial values.
    down, up : densities.
    lr, momentum, server_lr : of local SGD and of the server's Adam.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        down: float,
        up: float,
        lr: float,
        momentum: float,
        server_lr: float,
    ) -> None:
        self.model, self.down, self.up = model, down, up
        self.lr, self.momentum = lr, momentum
        self.values_P = parameters_to_vector(trainable(model)).detach().clone()
        self.optimizer = torch.optim.Adam([self.values_P], lr=server_lr)

    def play_round(self, clients: Sequence[Sequence[Batch]]) -> None:
        """Train every client from the masked model and step on the mean."""
        sent_P = self.values_P * top_mask(self.values_P, self.down)
        total_P = torch.zeros_like(sent_P)
        for batches in clients:
            own = copy.deepcopy(self.model)
            vector_to_parameters(sent_P.clone(), trainable(own))  # they become views of it
            train(own, batches, self.lr, self.momentum)
            delta_P = sent_P - parameters_to_vector(trainable(own)).detach()
            total_P += delta_P * top_mask(delta_P, self.up)
        self.values_P.grad = total_P / len(clients)
        self.optimizer.step()


def rounds(
    inputs: Inputs,
    cohorts: Sequence[Sequence[str]],
    *,
    densities: tuple[float, float],
    threads: int,
) -> list[float]:
    """Play rounds in this process and return the seconds of each.

    Parameters
    ----------
    inputs : their batches are padded to the task's longest row already.
    densities : down and up.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    down, up = densities
    own = {"lr": inputs.lr, "momentum": inputs.momentum, "server_lr": inputs.server_lr}
    peer, seconds = FlascStyle(build(inputs), down=down, up=up, **own), []
    for cohort in cohorts:
        began = time.perf_counter()
        peer.play_round([inputs.clients[name] for name in cohort])
        seconds.append(time.perf_counter() - began)
    torch.set_num_threads(before)
    return seconds
