"""Kept state of many parameters is in memory once, and training needs no second vector beside it.

Shapes: P trainable parameters.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import bits

from fedllm_app.client.moving import BLOCK, Moving, restore, state_of
from fedllm_app.client.rules.optimizers import first_state, local_optimizer
from fedllm_app.client.settings import ClientSettings
from fedllm_app.core.layout import ParamLayout

CODE = """
import ctypes, sys, tempfile
from pathlib import Path
from types import SimpleNamespace
import numpy as np, torch
from torch import nn
from fedllm_app.client.kept import Kept, load_kept, save_kept
from fedllm_app.client.settings import ClientSettings
from fedllm_app.client.train import Device, train
from fedllm_app.core.job import Job
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import ClientPlan
from fedllm_app.wire.codec import WireSettings

torch.set_num_threads(1)
rows = 300
layout = ParamLayout(
    tuple(f"{i}.{kind}" for i in range(20) for kind in ("w", "norm")), ((rows, 1000), (1000,)) * 20
)
P = layout.size

class Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        return values[0].clone()

    @staticmethod
    def backward(ctx, upstream):
        model.grad.add_(1.0)

model = SimpleNamespace(
    layout=layout, flat=torch.full((P,), 0.5), grad=torch.ones(P), model=nn.Identity(),
    freeze_outside=lambda where: None,
)
weights = nn.Parameter(model.flat)
model.logits = lambda batch: Slope.apply(weights)
settings = ClientSettings(
    optimizer="adamw", weight_decay=0.1, decay_all=False, clip_norm=1.0,
    keep_optimizer=True, steps=2,
)
device = Device(
    model=model, initial=np.zeros(1), loss=lambda loss, batch: (loss, 1),
    batches=lambda *_: iter([{"x": torch.zeros(1)}]), settings=settings, wire=WireSettings(),
    seed=0, kept=Path(sys.argv[1]),
)

def held(name):
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))

for number in (1, 2):  # the first begins, and imports what torch imports late
    job = Job(number, "a", state_from=number - 1 or -1)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = held("VmRSS")
    kept = load_kept(device.kept, job, P)
    trained = train(device, job, ClientPlan(), None, kept, {})
    save_kept(device.kept, job, Kept(trained.optimizer), P)
    peak = held("VmHWM") - before
    del kept, trained
print(peak / (4 * P))
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak of a process"
)
def test_kept_state_is_in_memory_once(tmp_path):
    words = [sys.executable, "-c", CODE, str(tmp_path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr[-2000:]
    vectors = float(done.stdout)  # AdamW keeps two
    assert 1.8 < vectors < 2.5


def test_blocks_and_a_given_start_change_no_bit():
    P = 2 * BLOCK + 77
    layout = ParamLayout(("a", "b"), ((P - 5, 1), (5,)))
    start = torch.linspace(-1, 1, P)
    gradients = torch.randn(3, P, generator=torch.Generator().manual_seed(0))
    settings = ClientSettings(optimizer="adamw", lr=0.01, weight_decay=0.1)
    plain = start.clone()
    peer = torch.optim.AdamW([plain], lr=0.01, weight_decay=0.1)
    flat, grad = start.clone(), torch.zeros(P)
    moving = Moving(flat, grad, None, layout)
    assert len(moving.parts) == 3
    ours = local_optimizer(settings, moving.parts, moving.decays)
    first = first_state(settings, P)
    restore(ours, moving, first, P)
    for gradient in gradients:
        plain.grad = gradient.clone()
        peer.step()
        grad.copy_(gradient)
        for part, own in zip(moving.parts, moving.gradients(), strict=True):
            part.grad = own
        ours.step()
    assert bits(flat) == bits(plain)
    found = state_of(ours, moving, first)
    assert found.keys() == peer.state[plain].keys()
    for name, tensor in peer.state[plain].items():
        assert np.array_equal(found[name].numpy(), tensor.numpy())
