"""What a round may cost at most, and when the next is not begun."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import BASE, LAYOUT, P, toy_device

from fedllm_app.client.answer import encode_update
from fedllm_app.core.job import Job, Request
from fedllm_app.core.plan import All, ClientPlan, Derived, RoundPlan, TopK
from fedllm_app.run.budget import Cost, most_traffic, over_budget, upload_bound
from fedllm_app.run.settings import RoundSettings
from fedllm_app.wire.codec import WireSettings, size_of

SUPPORTS = st.sampled_from(
    [
        All(),
        Derived("tensors", {"without": ["*lora_A*"]}),
        Derived("random-tensors", {"share": 0.4}),
    ]
)
JOB = Job(3, "a")


@given(
    up=SUPPORTS | st.builds(TopK, st.floats(0.01, 1), SUPPORTS),
    delta=hnp.arrays(np.float32, P, elements=st.floats(-100, 100, width=32)),
    values=st.sampled_from(["fp32", "fp16", "bf16", "int8"]),
)
def test_no_upload_is_larger_than_its_bound(tmp_path_factory, up, delta, values):
    wire, plan = WireSettings(up_values=values, block=16), ClientPlan(up=up)
    device = toy_device({}, tmp_path_factory.getbasetemp(), wire=wire)
    update, _ = encode_update(device, plan, JOB, BASE, delta)
    size = size_of(update).total
    bound = upload_bound(plan, LAYOUT, JOB, 0, wire)
    assert size <= bound
    # Where no positions travel it is known to the byte.
    assert size == bound or isinstance(up, TopK)


def test_bounds_by_hand():
    fp32 = WireSettings()
    assert upload_bound(ClientPlan(), LAYOUT, JOB, 0, fp32) == 64 + 4 * 20
    half = ClientPlan(up=Derived("tensors", {"without": ["*lora_?.*"]}))
    assert upload_bound(half, LAYOUT, JOB, 0, WireSettings(up_values="fp16")) == 64 + 2 * 10
    # Five values of twenty, with a bitmap of three bytes at most.
    top = upload_bound(ClientPlan(up=TopK(0.25)), LAYOUT, JOB, 0, fp32)
    assert 64 + 4 * 5 < top <= 64 + 4 * 5 + 3


@pytest.mark.parametrize(
    ("key", "limit", "spent", "more", "over"),
    [
        ("max_up_bytes", 100, Cost(60, 0, 0), Cost(40, 999, 999), False),
        ("max_up_bytes", 100, Cost(60, 0, 0), Cost(41, 0, 0), True),
        ("max_down_bytes", 100, Cost(0, 60, 0), Cost(999, 40, 999), False),
        ("max_down_bytes", 100, Cost(0, 60, 0), Cost(0, 41, 0), True),
        ("max_seconds", 10.0, Cost(0, 0, 9.5), Cost(999, 999, 0.5), False),
        ("max_seconds", 10.0, Cost(0, 0, 9.5), Cost(0, 0, 0.6), True),
        ("max_simulated_s", 10.0, Cost(0, 0, 99, 9.5), Cost(9, 9, 9, 0.5), False),
        ("max_simulated_s", 10.0, Cost(0, 0, 0, 9.5), Cost(0, 0, 0, 0.6), True),
    ],
)
def test_a_budget_may_be_used_up_but_not_exceeded(key, limit, spent, more, over):
    why = over_budget(RoundSettings(**{key: limit}), spent, more)
    assert bool(why) == over
    if over:
        assert f"round.{key.replace('_', '-')} = {limit:g}" in why


def test_the_most_a_round_can_carry_by_client():
    plan = RoundPlan(
        {"all": ClientPlan(), "few": ClientPlan(up=Derived("tensors", {"without": ["*lora_?.*"]}))},
        {"a": "all", "b": "all", "c": "few"},
    )
    requests = [
        Request(group, {}, np.zeros(size, np.uint8), tuple(Job(3, c) for c in clients), "", BASE)
        for group, size, clients in (("all", 144, "ab"), ("few", 90, "c"))
    ]
    assert most_traffic(plan, requests, LAYOUT, 0, WireSettings()) == {
        "a": (144, 64 + 4 * 20), "b": (144, 64 + 4 * 20), "c": (90, 64 + 4 * 10),
    }  # fmt: skip


def test_no_budget_is_no_limit():
    assert over_budget(RoundSettings(), Cost(2**60, 2**60, 1e9), Cost(1, 1, 1)) == ""
