"""The start: workers are woken side by side, and nobody waits for more than the first of them."""

import gc
import subprocess
import sys
import threading
import time

import pytest
from flwr.app import RecordDict

import server_app
from fedllm_app.flower.message import reply_to
from fedllm_app.flower.waking import without_gc
from tests.flower.fake_grid import FakeGrid

pytestmark = pytest.mark.usefixtures("identity")


def woken(message):
    return reply_to(message, RecordDict())


def test_the_first_answer_is_enough(monkeypatch):
    monkeypatch.setattr(server_app.os, "cpu_count", lambda: 2)
    grid = FakeGrid(
        {1: None, 2: None, 3: None}, lambda m: woken(m) if m.metadata.dst_node_id == 2 else None
    )
    server_app.wake_workers(grid)
    asked = [m.metadata for m in grid.pushed.values()]
    assert [m.dst_node_id for m in asked] == [1, 2]
    assert {m.message_type for m in asked} == {"query.wake"}


def test_nodes_that_are_not_there_yet_are_waited_for():
    grid = FakeGrid({}, woken)
    threading.Timer(0.2, lambda: grid.holds.update({7: None})).start()
    server_app.wake_workers(grid)
    assert [m.metadata.dst_node_id for m in grid.pushed.values()] == [7]


@pytest.mark.parametrize("holds", [{}, {1: None}], ids=["no nodes", "no answer"])
def test_a_start_without_an_answer_goes_on(monkeypatch, holds):
    monkeypatch.setattr(server_app, "WAKE_S", 0.2)
    began = time.monotonic()
    server_app.wake_workers(FakeGrid(holds))
    assert 0.2 <= time.monotonic() - began < 2


def test_a_woken_worker_imports_while_it_answers():
    program = """
import sys, client_app
print("torch" in sys.modules)
client_app.import_node()
from fedllm_app.flower.node import holdings
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"], done.stderr[-2000:]


def test_the_collector_comes_back_as_it_was():
    with pytest.raises(ImportError), without_gc():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    try:
        with without_gc():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
