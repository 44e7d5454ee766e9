"""Our step is torch's on the same pseudo-gradients, and a restored one goes on to the same bits."""

import sys
import types

import numpy as np
import pytest
import torch
from toys import bits

from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.region import region_of
from fedllm_app.server.optimizer import ServerOptimizer
from fedllm_app.server.settings import ServerSettings

P = 7
BETAS = {"betas": (0.8, 0.95), "eps": 1e-3}
# Our settings, and the same thing said to torch.
CASES = {
    "adam": (
        {"optimizer": "adam", "lr": 0.1, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3},
        lambda p: torch.optim.Adam([p], lr=0.1, **BETAS),
    ),
    "adam, all automatic": (
        {},
        lambda p: torch.optim.Adam([p], lr=1e-2, betas=(0.9, 0.999), eps=1e-8),
    ),
    "adamw": (
        {"optimizer": "adamw", "lr": 0.1, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3},
        lambda p: torch.optim.AdamW([p], lr=0.1, weight_decay=0.01, **BETAS),
    ),
    "adamw without decay": (
        {"optimizer": "adamw", "lr": 0.1, "weight_decay": 0.0},
        lambda p: torch.optim.AdamW([p], lr=0.1, weight_decay=0.0),
    ),
    "sgd": ({"optimizer": "sgd"}, lambda p: torch.optim.SGD([p], lr=1.0)),
    "sgd with Nesterov": (
        {"optimizer": "sgd", "lr": 0.7, "momentum": 0.9, "nesterov": True},
        lambda p: torch.optim.SGD([p], lr=0.7, momentum=0.9, nesterov=True),
    ),
    "delayed Nesterov of period 1": (
        {"optimizer": "delayed-nesterov", "weight_decay": 0.1},
        lambda p: torch.optim.SGD([p], lr=0.7, momentum=0.9, nesterov=True, weight_decay=0.1),
    ),
    "sgd with momentum and decay": (
        {"optimizer": "sgd", "lr": 0.7, "momentum": 0.9, "weight_decay": 0.1},
        lambda p: torch.optim.SGD([p], lr=0.7, momentum=0.9, weight_decay=0.1),
    ),
    "adagrad": (
        {"optimizer": "adagrad", "eps": 1e-3},
        lambda p: torch.optim.Adagrad([p], lr=0.01, eps=1e-3),
    ),
}
MOMENTA = {
    "adam": ["exp_avg", "exp_avg_sq"],
    "adamw": ["exp_avg", "exp_avg_sq"],
    "sgd with Nesterov": ["momentum_buffer"],
    "delayed Nesterov of period 1": ["momentum_buffer"],
    "adagrad": ["sum"],
}


def gradients(n):
    rng = np.random.default_rng(0)
    return [rng.normal(size=P).astype(np.float32) for _ in range(n)]


def ours(case, params=None):
    start = np.linspace(-1, 1, P, dtype=np.float32) if params is None else params
    return ServerOptimizer(ServerSettings(**CASES[case][0]).resolved(), start)


@pytest.mark.parametrize("case", CASES)
def test_five_steps_equal_torch_bit_for_bit(case):
    mine = ours(case)
    theirs = torch.nn.Parameter(torch.from_numpy(np.linspace(-1, 1, P, dtype=np.float32)))
    optimizer = CASES[case][1](theirs)
    for gradient in gradients(5):
        before = mine.params.copy()
        mine.step(gradient.copy())
        theirs.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        assert bits(mine.params) == bits(theirs.detach().numpy())
        assert (mine.params != before).all()


@pytest.mark.parametrize("case", CASES)
def test_a_restored_optimizer_goes_on_to_the_same_bits(case):
    whole, first = ours(case), ours(case)
    steps = gradients(6)
    for gradient in steps[:3]:
        whole.step(gradient)
        first.step(gradient)
    saved = {name: tensor.clone() for name, tensor in first.tensors().items()}
    second = ours(case, np.zeros(P, np.float32))
    second.restore(saved)
    for gradient in steps[3:]:
        whole.step(gradient)
        second.step(gradient)
    assert set(whole.tensors()) == set(second.tensors())
    for name, tensor in whole.tensors().items():
        assert bits(tensor) == bits(second.tensors()[name]), name


def test_initial_parameters_are_copied():
    start = np.ones(P, np.float32)
    ours("sgd", start).step(np.ones(P, np.float32))
    assert start.tolist() == [1] * P


@pytest.mark.parametrize("case", MOMENTA)
@pytest.mark.parametrize("first_is_masked", [True, False])
def test_within_and_outside(case, first_is_masked):
    within, rest = np.array([1, 4, 5]), [0, 2, 3, 6]
    full, kept, zeroed = ours(case), ours(case), ours(case)
    steps = gradients(3)
    masked = range(0 if first_is_masked else 1, 3)
    before = {}
    for i, gradient in enumerate(steps):
        if i in masked and not before:
            before = {n: t.numpy().copy() for n, t in kept.tensors().items() if t.ndim}
        full.step(gradient)
        kept.step(gradient, within if i in masked else None, "leave")
        zeroed.step(gradient, within if i in masked else None, "zero")
    for name in ["params", *(f"optimizer.{m}" for m in MOMENTA[case])]:
        whole, keep, zero = (o.tensors()[name].numpy() for o in (full, kept, zeroed))
        # Inside, as if there were no mask: every optimizer here is coordinate by coordinate.
        assert bits(whole[within]) == bits(keep[within]) == bits(zero[within])
        # A momentum that did not exist before the first masked step was zero.
        old = before.get(name, np.zeros(P, np.float32))
        assert bits(keep[rest]) == bits(old[rest])
        assert zero[rest].tolist() == [0] * 4


def test_an_empty_step_moves_nothing():
    mine = ours("adam")
    before = mine.params.copy()
    mine.step(gradients(1)[0], np.empty(0, np.int64), "leave")
    assert bits(mine.params) == bits(before)


@pytest.mark.parametrize(
    ("given", "name", "lr", "decay"),
    [
        ({}, "adam", 1e-2, 0),
        ({"optimizer": "adamw"}, "adamw", 1e-2, 0.01),
        ({"optimizer": "adamw", "weight_decay": 0.0}, "adamw", 1e-2, 0),
        ({"optimizer": "sgd"}, "sgd", 1.0, 0),
        ({"optimizer": "adagrad", "lr": 0.5}, "adagrad", 0.5, 0),
    ],
)
def test_what_automatic_becomes(given, name, lr, decay):
    settings = ServerSettings(**given).resolved()
    assert (settings.optimizer, settings.lr, settings.weight_decay) == (name, lr, decay)
    assert settings.resolved() == settings


def test_one_of_your_own_sees_all_that_moves_at_once(monkeypatch):
    seen = []

    def own(params, settings):
        seen.append(params.numel())
        return torch.optim.SGD([params], lr=settings.lr)

    made = types.ModuleType("my_optimizer")
    made.own = own
    monkeypatch.setitem(sys.modules, "my_optimizer", made)
    layout = ParamLayout(("a", "b", "c"), ((3,), (2,), (2,)))
    region = region_of(layout, [("a", ()), ("c", ())])
    optimizer = ServerOptimizer(
        ServerSettings(optimizer="my_optimizer:own", lr=1.0).resolved(), np.zeros(7, np.float32)
    )
    optimizer.step(np.ones(7, np.float32), region)
    assert seen == [5]
    assert optimizer.params.tolist() == [-1, -1, -1, 0, 0, -1, -1]


@pytest.mark.parametrize("N", [2, 4])
def test_delayed_steps_of_equal_age_are_one_nesterov_step_on_their_mean(N):
    """Liu et al. 2024: to the bit on numbers that no sum rounds, else to a few of the last bits."""
    keys = {"lr": 0.5, "momentum": 0.5}
    delayed = {"optimizer": "delayed-nesterov", "momentum_period": N} | keys
    nesterov = {"optimizer": "sgd", "nesterov": True} | keys
    start = np.linspace(-1, 1, P, dtype=np.float32)
    for whole, allowed in ((True, 0), (False, 1e-6)):
        mine, theirs = (
            ServerOptimizer(
                ServerSettings(**s).resolved(), np.round(start * 8) / 8 if whole else start
            )
            for s in (delayed, nesterov)
        )
        for turn in range(3):
            pushes = gradients(3 * N)[turn * N : (turn + 1) * N]
            pushes = [np.round(g * 16) / 16 for g in pushes] if whole else pushes
            for push in pushes:
                mine.step(push.copy())
            theirs.step(np.mean(pushes, axis=0, dtype=np.float64).astype(np.float32))
            np.testing.assert_allclose(mine.params, theirs.params, rtol=0, atol=allowed)
        between = mine.params.copy()
        mine.step(pushes[0].copy())  # no momentum: plain descent by a part
        np.testing.assert_allclose(between - mine.params, 0.5 * pushes[0] / N, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["fedadam", "fedyogi", "fedadagrad"])
def test_a_coordinate_that_is_stepped_late_begins_as_all_do(name):
    """Its second moment begins as tau squared at its own first step, whatever the others did."""
    gradient = np.full(P, 0.5, np.float32)
    settings = ServerSettings(optimizer=name, beta1=0.0).resolved()
    late, soon = (ServerOptimizer(settings, np.zeros(P, np.float32)) for _ in range(2))
    late.step(gradient, np.array([0, 1]))
    late.step(gradient, np.array([2]))
    soon.step(gradient)
    assert late.params[:3].tolist() == soon.params[:3].tolist()
    assert not late.params[3:].any()
