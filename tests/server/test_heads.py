"""The method `heads`: who trains which heads, and how each is averaged."""

from dataclasses import replace

import numpy as np
import pytest
from toys import LAYOUT, P

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.heads import Heads
from fedllm_app.core.support import Draw, expand
from fedllm_app.server.methods import STRATEGIES
from fedllm_app.server.methods.base import Inputs
from fedllm_app.server.methods.settings import StrategySettings

FOUR = Heads(4, ("attention.q.*",), ("attention.o.*",))  # four heads of a row and a column each
COHORT = ("a", "b", "c", "d", "e", "f")
ATTENTION = set(range(12, 20))


def inputs(cohort=COHORT, heads=FOUR, job=1, **strategy):
    method = STRATEGIES["heads"]
    settings = method.filled(StrategySettings(name="heads", **strategy))
    zeros = np.zeros(P, np.float32)
    return Inputs(settings, LAYOUT, job, zeros, zeros, cohort, 5, heads=heads)


def trained(given):
    """Return what each client trains, and the plan."""
    plan, _ = STRATEGIES["heads"].plan(given, {})
    found = {}
    for client, group in plan.group_of.items():
        where = expand(plan.groups[group].train, LAYOUT, Draw(5, given.job, group, client))
        found[client] = set(range(P)) if where is None else set(where.positions().tolist())
    return found, plan


def test_clients_share_no_head_until_all_are_dealt():
    found, plan = trained(inputs(head_share=0.5))
    own = [found[client] & ATTENTION for client in COHORT]
    assert all(len(one) == 4 for one in own)  # two heads, a row and a column each
    assert own[0] | own[1] == ATTENTION and not own[0] & own[1]
    assert own[2] == own[0] and own[5] == own[1]
    assert plan.mean == "senders" and plan.served == "all"
    assert len(plan.groups) == 3  # and that of all heads, which is evaluated


def test_every_round_deals_anew():
    drawn = [frozenset(trained(inputs(job=t, head_share=0.25))[0]["a"]) for t in range(1, 12)]
    assert len(set(drawn)) == 4


def test_what_belongs_to_no_head_is_trained_by_all_or_by_none():
    every, _ = trained(inputs())
    assert all(set(range(12)) <= one for one in every.values())
    none, _ = trained(inputs(beside_heads="frozen"))
    assert all(one <= ATTENTION for one in none.values())


def test_tiers_train_as_many_heads_as_they_can():
    found, plan = trained(inputs(("0", "1", "2"), tier_heads="1/4,1/2,1"))
    assert [len(found[c] & ATTENTION) for c in "012"] == [2, 4, 8]
    assert not found["0"] & found["1"] & ATTENTION
    assert plan.group_of["2"] == "all"


def test_a_small_share_is_one_head_and_one_unit_is_everything():
    assert len(trained(inputs(head_share=0.01))[0]["a"] & ATTENTION) == 2
    assert trained(inputs(heads=replace(FOUR, of=1)))[0]["a"] == set(range(P))


def test_a_model_without_heads_is_refused():
    with pytest.raises(ConfigError, match="no attention heads are found among the 5 tensors"):
        trained(inputs(heads=None))
