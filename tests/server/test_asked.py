"""What a reply may hold, and the most bytes that it has."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import BASE, LAYOUT, P

from fedllm_app.client.upload import Upload
from fedllm_app.core.errors import ConfigError
from fedllm_app.core.job import Job, Request
from fedllm_app.core.plan import Beside, ClientPlan, TopK
from fedllm_app.core.support import All, Derived, Draw
from fedllm_app.server.asked import asked_for, expected
from fedllm_app.wire.codec import WireSettings, size_of
from fedllm_app.wire.slices import origin_of

HALF = Derived("tensors", {"without": ["*lora_?.*"]})
SUPPORTS = st.sampled_from(
    [
        All(),
        Derived("tensors", {"without": ["*lora_A*"]}),
        Derived("random-tensors", {"share": 0.4}, ("round", "client")),
    ]
)
DRAW = Draw(0, 3, "all", "a")


def most(up, values="fp32", block=256):
    return expected(up, LAYOUT, DRAW, values, block).most_bytes


@given(
    up=SUPPORTS | st.builds(TopK, st.floats(0.01, 1), SUPPORTS),
    delta=hnp.arrays(np.float32, P, elements=st.floats(-100, 100, width=32)),
    values=st.sampled_from(["fp32", "fp16", "bf16", "int8"]),
)
def test_no_upload_is_larger_than_its_bound(up, delta, values):
    wire = WireSettings(up_values=values, block=16)
    upload = Upload(LAYOUT, origin_of(LAYOUT, BASE), wire, DRAW, Job(3, "a"))
    payload, _ = upload.params(ClientPlan(up=up), delta)
    size, bound = size_of(payload).total, most(up, values, 16)
    assert size <= bound
    # Where no positions travel it is known to the byte.
    assert size == bound or isinstance(up, TopK)


def test_bounds_by_hand():
    assert most(All()) == 64 + 4 * 20
    assert most(HALF, "fp16") == 64 + 2 * 10
    # Five values of twenty, with a bitmap of three bytes at most.
    assert 64 + 4 * 5 < most(TopK(0.25)) <= 64 + 4 * 5 + 3


def test_every_job_carries_its_plan_base_and_bounds():
    plan = ClientPlan(up=HALF, beside_up={"control": Beside(HALF, "fp16")})
    down = {"params": np.zeros(90, np.uint8), "moment": np.zeros(10, np.uint8)}
    jobs = (Job(3, "a"), Job(3, "b"))
    request = Request("few", plan.to_json(), down, jobs, LAYOUT.hash, BASE, 3)
    asked = asked_for(request, plan, LAYOUT, 0, WireSettings())
    assert [job.key for job in asked] == [(3, "a"), (3, "b")]
    assert {job.down_bytes for job in asked} == {100}
    assert {job.most_bytes for job in asked} == {64 + 4 * 10 + 64 + 2 * 10}
    assert asked[0].origin.fingerprint == BASE
    assert asked[0].plan is plan


def test_a_download_cannot_be_drawn_per_client():
    support = Derived("random-tensors", {"share": 0.4}, ("client",))
    with pytest.raises(ConfigError, match="drawn per client, and is used where no client is"):
        expected(support, LAYOUT, Draw(0, 3, "all"), "fp32", 256)
