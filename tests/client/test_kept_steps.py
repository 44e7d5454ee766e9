"""AdamW's state over jobs that train different variables: each has its own count of steps."""

import pytest
import torch
from toys import bits

from fedllm_app.client.moving import Moving, restore, state_of
from fedllm_app.client.rules.optimizers import first_state, local_optimizer
from fedllm_app.client.settings import ClientSettings
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.support import Derived, Draw, expand

LAYOUT = ParamLayout(("a", "b", "c"), ((4, 4), (4, 4), (4, 4)))
SETTINGS = ClientSettings(optimizer="adamw", lr=0.01, keep_optimizer=True)
# Which variables each job trains, and for how many steps.
JOBS = [("a", 40), ("ab", 4), ("b", 3), ("ac", 5), ("abc", 6)]


@pytest.mark.parametrize("scattered", [False, True])
def test_each_variable_is_stepped_as_by_an_adamw_of_its_own(scattered):
    random = torch.Generator().manual_seed(0)
    values = torch.randn(LAYOUT.size, generator=random)
    flat, grad = values.clone(), torch.zeros(LAYOUT.size)
    peers = {}
    for name, start in zip(LAYOUT.names, LAYOUT.offsets, strict=True):
        peer = values[start : start + 16].clone()
        peers[name] = (peer, torch.optim.AdamW([peer], lr=0.01, weight_decay=0.0))
    kept = {}
    for names, steps in JOBS:
        # Scattered positions are one part: each job's are then of one history.
        if scattered and len(names) > 1:
            continue
        without = [name for name in LAYOUT.names if name not in names]
        where = expand(Derived("tensors", {"without": without}), LAYOUT, Draw(0))
        if scattered:
            where = where.positions()
        moving = Moving(flat, grad, where, LAYOUT)
        optimizer = local_optimizer(SETTINGS, moving.parts, moving.decays)
        state = kept or first_state(SETTINGS, LAYOUT.size)
        restore(optimizer, moving, state, LAYOUT.size)
        for _ in range(steps):
            grad.copy_(torch.randn(LAYOUT.size, generator=random))
            for part, own in zip(moving.parts, moving.gradients(), strict=True):
                part.grad = own
            optimizer.step()
            moving.write_back()
            for name in names:
                peer, own = peers[name]
                start = LAYOUT.offsets[LAYOUT.names.index(name)]
                peer.grad = grad[start : start + 16].clone()
                own.step()
        kept = state_of(optimizer, moving, state)
    assert bits(flat) == bits(torch.cat([peer for peer, _ in peers.values()]))


def test_coordinates_that_begin_are_never_stepped_too_far():
    """Where old and new ones are one part, the count is that of the new ones."""
    P = LAYOUT.size
    kept = {"exp_avg": torch.zeros(P), "exp_avg_sq": torch.zeros(P), "step": torch.zeros(P)}
    kept["step"][: P // 2] = 4000
    flat, grad = torch.zeros(P), torch.ones(P)
    moving = Moving(flat, grad, torch.arange(P).numpy(), LAYOUT)
    optimizer = local_optimizer(SETTINGS, moving.parts, moving.decays)
    restore(optimizer, moving, kept, P)
    for part, own in zip(moving.parts, moving.gradients(), strict=True):
        part.grad = own
    optimizer.step()
    moving.write_back()
    assert float(flat.abs().max()) <= 0.0101
    assert state_of(optimizer, moving, kept)["step"].tolist() == [1.0] * P
