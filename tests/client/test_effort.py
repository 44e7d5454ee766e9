"""What a job computes is known before it is trained: steps, batches and rows, to the last one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import toy_device

from fedllm_app.client.effort import effort_of
from fedllm_app.client.settings import ClientSettings
from fedllm_app.client.train import local_batches
from fedllm_app.core.effort import Effort
from fedllm_app.core.job import Job
from fedllm_app.core.plan import Work

COUNT = st.integers(0, 5)


def test_a_short_last_batch_is_its_rows():
    one = ClientSettings(batch=16)
    assert effort_of(one, Work(), 1) == Effort(1, 1, 1)
    assert effort_of(one, Work(), 33) == Effort(3, 3, 33)
    assert effort_of(ClientSettings(batch=16, steps=5), Work(), 20) == Effort(5, 5, 56)
    assert effort_of(ClientSettings(batch=16, steps=5), Work(), 1, stream=True).rows == 80
    assert effort_of(one, Work(steps=2, batch=4), 33) == Effort(2, 2, 8)


@given(
    n=st.integers(1, 9), batch=st.integers(1, 5), steps=COUNT, epochs=st.integers(1, 3),
    work=st.builds(Work, COUNT, COUNT, COUNT), stream=st.booleans(),
)  # fmt: skip
def test_it_is_what_local_training_goes_through(tmp_path_factory, n, batch, steps, epochs, work,
                                                stream):  # fmt: skip
    if stream and not (work.steps or steps):
        return
    settings = {"batch": batch, "steps": steps, "epochs": epochs}
    device = toy_device({"a": np.ones(1)}, tmp_path_factory.getbasetemp(), **settings)

    def of_an_epoch(client, size, rng):
        yield from ({"x": torch.zeros(min(size, n - i))} for i in range(0, n, size))

    def of_a_stream(client, position, size):
        while True:
            yield {"x": torch.zeros(size)}

    how = {"batches": of_an_epoch, "stream": of_a_stream if stream else None}
    sizes = [len(b["x"]) for b in local_batches(replace(device, **how), Job(1, "a"), work)]
    found = effort_of(device.settings, work, n, stream)
    assert (found.steps, found.rows) == (len(sizes), sum(sizes))


@pytest.mark.parametrize(("rule", "before"), [("mimelite", 33), ("scaffold", 0)])
def test_a_pass_over_all_examples_is_rows_too(rule, before):
    found = effort_of(ClientSettings(rule=rule, steps=2), Work(), 33)
    assert found.rows == 32 + before
