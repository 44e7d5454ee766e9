"""Local rules: hooks around the steps, a vector each way beside the parameters, kept state.

FedProx (Li et al. 2020) and SCAFFOLD (Karimireddy et al. 2020) as a user would write them, on the
toy model, whose gradient is slope + bend * values, so that every number can be worked out by hand.
"""

import sys
import types

import numpy as np
import pytest
import torch
from toys import PARAMS, P, Scripted, toy_device, toy_loop

from fedllm_app.client.effort import effort_of
from fedllm_app.client.moving import Moving
from fedllm_app.client.rules import rule_of
from fedllm_app.client.rules.base import LocalRule
from fedllm_app.client.settings import ClientSettings
from fedllm_app.core.errors import ConfigError
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import Beside, ClientPlan, RoundPlan, Work
from fedllm_app.core.settings import Settings
from fedllm_app.core.support import Derived, Draw, Positions, expand
from fedllm_app.server.methods.base import Method, one_group


class ProxKeys(Settings):
    mu: float = 0.1


class Prox(LocalRule):
    Keys = ProxKeys

    def begin(self, start, vectors, kept):
        self.start = [part.clone() for part in start]

    def gradient(self, gradient, values):
        for g, now, then in zip(gradient, values, self.start, strict=True):
            g.add_(now - then, alpha=self.keys.mu)


class Scaffold(LocalRule):
    keeps = True

    def begin(self, start, vectors, kept):
        self.start = [part.clone() for part in start]
        self.server = vectors["control"]
        self.own = kept.get("own") or [torch.zeros_like(part) for part in start]

    def gradient(self, gradient, values):
        for g, c, own in zip(gradient, self.server, self.own, strict=True):
            g.add_(c - own)

    def end(self, values, steps, lr):
        parts = zip(self.own, self.server, self.start, values, strict=True)
        new = [own - c + (then - now) / (steps * lr) for own, c, then, now in parts]
        change = [a - b for a, b in zip(new, self.own, strict=True)]
        return {"control": change}, {"own": new}


def scaffold(inputs, state):
    control = state.get("control", np.zeros(inputs.layout.size, np.float32))
    beside = {"control": Beside()}
    plan = ClientPlan(beside_down=beside, beside_up=beside)
    return one_group(plan, inputs.cohort, vectors={"control": control}), {"control": control}


def add_control(inputs, state, means):
    return means, {"control": state["control"] + means["control"]}


SCAFFOLD = Method(scaffold, "", "", before_step=add_control)


@pytest.fixture(autouse=True)
def _module(monkeypatch):
    made = types.ModuleType("my_rules")
    made.Prox, made.Scaffold, made.NotOne = Prox, Scaffold, dict
    monkeypatch.setitem(sys.modules, "my_rules", made)


def test_fedprox_pulls_back_to_where_training_began(tmp_path):
    slopes = {"a": np.ones(P, np.float32)}
    device = toy_device(slopes, tmp_path / "kept", epochs=2, rule="my_rules:Prox",
                        rule_args="mu=0.5")  # fmt: skip
    loop = toy_loop(tmp_path, Scripted(device, {"a": 1}), clients=1, server={"lr": 1.0})
    loop.play()
    # The first step moves by 1; the second by 1 - 0.5 * 1.
    assert (PARAMS - loop.optimizer.params).tolist() == [1.5] * P


def test_scaffold_takes_the_drift_of_its_clients_away(tmp_path):
    slopes = {"a": np.full(P, 1, np.float32), "b": np.full(P, 3, np.float32)}
    device = toy_device(slopes, tmp_path / "kept", lr=0.5, rule="my_rules:Scaffold")
    transport = Scripted(device, {"a": 1, "b": 1})
    loop = toy_loop(tmp_path, transport, method=SCAFFOLD, rounds=2, clients=2, evaluate=None,
                    server={"lr": 1.0}, checkpoint_every=1)  # fmt: skip
    loop.play()
    # After round 1 every control is its client's gradient, the server's their mean of 2.
    assert set(loop.state.method["control"].tolist()) == {2}
    first, second = device.model.copies[0], device.model.copies[-1]
    assert set((first - second).tolist()) == {1.0}
    # In round 2 each client steps along slope + 2 - slope: all move alike, by 0.5 * 2.
    assert (PARAMS - loop.optimizer.params).tolist() == [2.0] * P


def test_a_vector_beside_the_parameters_has_rows_of_its_own_in_the_ledger(tmp_path):
    from fedllm_app.run.metrics import read_lines

    slopes = {"a": np.ones(P, np.float32)}
    device = toy_device(slopes, tmp_path / "kept", rule="my_rules:Scaffold")
    toy_loop(tmp_path, Scripted(device, {"a": 1}), method=SCAFFOLD, clients=1).play()
    lines = read_lines(tmp_path / "ledger.jsonl")
    named = {(r["direction"], r.get("vector", "params")): r["bytes"] for r in lines}
    assert named == dict.fromkeys(
        [(way, name) for way in ("up", "down") for name in ("params", "control")], 64 + 4 * P
    )


def test_a_rule_that_sends_what_the_plan_does_not_ask_for_is_dropped(tmp_path, said):
    slopes = {"a": np.ones(P, np.float32)}
    device = toy_device(slopes, tmp_path / "kept", rule="my_rules:Prox")
    toy_loop(tmp_path, Scripted(device, {"a": 1}), method=SCAFFOLD, clients=1).play()
    assert "client.rule sends the vectors []; the plan asks for ['control']" in said.text


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rule": "nowhere:Rule"}, "client.rule is 'nowhere:Rule', which cannot be imported"),
        ({"rule": "my_rules:NotOne"}, "client.rule is 'my_rules:NotOne', which is a type"),
        ({"rule": "prox"}, "client.rule is 'prox'; expected"),
        ({"rule_args": "mu=1"}, "client.rule-args is 'mu=1'; expected ''"),
        ({"rule": "my_rules:Prox", "rule_args": "nu=1"}, "Its names are mu"),
        ({"rule": "my_rules:Prox", "rule_args": "mu=much"}, "mu is 'much'"),
        ({"rule": "my_rules:Prox", "rule_args": "mu"}, "expected name=value pairs"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_by_its_key(keys, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        rule_of(ClientSettings(**keys))


LAYERS = ParamLayout(
    ("a.weight", "a.bias", "norm.weight", "b.weight"), ((2, 3), (3,), (2,), (2, 2))
)


@pytest.mark.parametrize(
    "where",
    [None, np.array([0, 6, 7, 9, 11]), Derived("tensors", {"without": ["b*"]})],
    ids=["all", "positions", "region"],
)
def test_weight_decay_spares_biases_and_norms_where_it_is_told_to(where):
    where = expand(where, LAYERS, Draw(0)) if isinstance(where, Derived) else where
    flat, grad = torch.arange(1.0, 16.0), torch.zeros(15)
    moving = Moving(flat, grad, where, LAYERS, split=True)
    spared = torch.cat(
        [p.reshape(-1) for p, has in zip(moving.parts, moving.decays, strict=True) if not has]
    )
    inside = (
        set(range(15))
        if where is None
        else set(where.tolist() if isinstance(where, np.ndarray) else where.positions().tolist())
    )
    assert sorted(spared.tolist()) == [float(i + 1) for i in sorted(inside & set(range(6, 11)))]
    moving.parts[0].mul_(2)
    moving.write_back()
    assert float(flat[0]) == 2.0


def test_the_clock_of_the_run_rules_the_local_rate(tmp_path):
    # Two rounds of two steps, warm-up over four: a quarter, a half, three quarters, and one.
    slopes = {"a": np.ones(P, np.float32)}
    device = toy_device(slopes, tmp_path / "kept", epochs=2, warmup_steps=4)
    loop = toy_loop(tmp_path, Scripted(device, {"a": 1}), rounds=2, clients=1, server={"lr": 1.0})
    loop.play()
    assert (PARAMS - loop.optimizer.params).tolist() == [2.5] * P


def test_a_vector_beside_a_mask_travels_at_the_positions_of_the_mask(tmp_path):
    # The download is the largest quarter; the control comes and goes at the same five positions.
    mask = np.arange(15, 20)

    def plan(inputs, state):
        support = Positions(mask)
        beside = {"control": Beside(support)}
        client = ClientPlan(down=support, train=support, up=support, beside_down=beside,
                            beside_up=beside)  # fmt: skip
        control = state.get("control", np.ones(P, np.float32))
        return one_group(client, inputs.cohort, step=support, vectors={"control": control}), {
            "control": control
        }

    slopes = {"a": np.ones(P, np.float32)}
    device = toy_device(slopes, tmp_path / "kept", rule="my_rules:Scaffold")
    method = Method(plan, "", "", before_step=add_control)
    loop = toy_loop(tmp_path, Scripted(device, {"a": 1}), method=method, clients=1,
                    server={"lr": 1.0})  # fmt: skip
    loop.play()
    # The gradient of 1 and the control of 1: the mask moves by 2, the rest not at all.
    assert (PARAMS - loop.optimizer.params).tolist() == [0.0] * 15 + [2.0] * 5
    # own - c + (start - now) / lr is 0 - 1 + 2 there.
    assert loop.state.method["control"].tolist() == [1.0] * 15 + [2.0] * 5


def test_a_vector_that_nobody_sent_is_not_among_the_means(tmp_path):
    seen = []

    def plan(inputs, state):
        groups = {"a": ClientPlan(), "b": ClientPlan(beside_up={"control": Beside()})}
        return RoundPlan(groups, {c: c for c in inputs.cohort}, served="a"), state

    def look(inputs, state, means):
        seen.append(sorted(means))
        return means, state

    slopes = {c: np.ones(P, np.float32) for c in "ab"}
    device = toy_device(slopes, tmp_path / "kept")
    method = Method(plan, "", "", before_step=look)
    toy_loop(tmp_path, Scripted(device, {"a": 1, "b": 1}), method=method, clients=2).play()
    assert seen == [["params"]]


def test_a_pass_over_all_examples_is_counted_beside_the_local_steps():
    # 33 examples are three batches of 16; MimeLite reads them once more than the others do.
    for name, before in (("mimelite", 3), ("scaffold", 0), ("", 0)):
        settings = ClientSettings(rule=name, steps=10)
        assert effort_of(settings, Work(), 33).batches == 10 + before
