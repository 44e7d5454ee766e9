"""Jobs to devices, each on a node of its own: who is asked, who is busy, who is left out."""

import time

import httpx
import pytest
from fake_grid import PAYLOAD, devices, fine, request
from flwr.app import RecordDict
from google.protobuf.message import DecodeError

from fedllm_app.core.errors import WireError
from fedllm_app.core.job import Reply
from fedllm_app.core.state import RunState
from fedllm_app.flower.message import Holdings, pack_replies
from fedllm_app.flower.transport import ASK_AGAIN_S, check_device
from fedllm_app.server.pacing.deadline import Deadline
from fedllm_app.server.pacing.free import first_free
from fedllm_app.server.pacing.sync import Sync

pytestmark = pytest.mark.usefixtures("identity")


def one(client, n=5):
    return Holdings({client: n})


def test_every_device_is_asked_once():
    transport, grid = devices({1: one("ann"), 2: one("bob", 3)})
    assert transport.clients() == {"ann": 5, "bob": 3}
    grid.holds[3] = one("cid")
    assert transport.clients() == {"ann": 5, "bob": 3, "cid": 5}
    transport.clients()
    assert grid.queries == [1, 2, 3]


def test_a_device_that_left_is_no_client():
    transport, grid = devices({1: one("ann"), 2: one("bob")})
    transport.clients()
    del grid.holds[2]
    assert transport.clients() == {"ann": 5}


def test_the_first_round_waits_for_the_clients_asked_for(monkeypatch):
    transport, grid = devices({1: one("ann")}, wait_for=2)
    monkeypatch.setattr(
        "fedllm_app.flower.transport.time.sleep", lambda s: grid.holds.update({2: one("bob")})
    )
    assert set(transport.clients()) == {"ann", "bob"}
    # Later rounds take who is there.
    del grid.holds[1]
    assert set(transport.clients()) == {"bob"}


def test_a_client_id_that_is_taken_is_left_out(said):
    transport, grid = devices({1: one("ann"), 2: one("ann", 99)})
    assert transport.clients() == {"ann": 5}
    assert "node 2: client-id 'ann' is taken, until its node is gone" in said.text
    # Once it is gone, the other one plays it.
    del grid.holds[1]
    assert transport.clients() == {"ann": 99}
    assert [node for node, _ in transport.assign([request("ann")])] == [2]


def test_a_client_that_comes_back_on_a_new_node_is_served_there():
    transport, grid = devices({1: one("ann")}, train=fine)
    transport.clients()
    grid.holds = {2: one("ann", 6)}
    assert transport.clients() == {"ann": 6}
    assert [node for node, _ in transport.assign([request("ann")])] == [2]


def test_a_device_that_gives_no_answer_holds_up_no_round():
    transport, grid = devices({1: None, 2: one("bob")})
    assert transport.clients() == {"bob": 5}
    assert transport.clients() == {"bob": 5}
    assert sorted(grid.queries) == [1, 2]


class NoMessage:
    """What Flower makes of an object that is well formed and something else."""


@pytest.mark.parametrize(
    "spoilt",
    [ValueError("no such dtype"), DecodeError("bad"), AttributeError("metadata"), NoMessage()],
)
def test_whatever_a_device_makes_flower_do_ends_no_run_and_takes_no_other_with_it(said, spoilt):
    transport, grid = devices({1: one("ann"), 2: one("bob")}, train=fine)
    transport.clients()
    transport.submit([request("ann", "bob")], 9.0)
    (broken,) = [i for i, m in grid.pushed.items() if m.metadata.dst_node_id == 1]
    pull = grid.pull_messages

    def pulled(message_ids):
        if broken not in message_ids:
            return pull(message_ids)
        if isinstance(spoilt, Exception):
            raise spoilt
        return [spoilt]

    grid.pull_messages = pulled
    replies = {reply.client: reply for reply in transport.poll()}
    assert (replies["ann"].vectors, replies["ann"].reason) == ({}, "malformed")
    assert replies["bob"].vectors
    assert not isinstance(spoilt, Exception) or "cannot be read" in said.text
    assert transport.poll() == []


def test_a_reply_is_to_what_was_asked_whatever_it_says_itself():
    transport, grid = devices({1: one("ann")}, train=fine)
    transport.clients()
    transport.submit([request("ann")], 9.0)
    (reply,) = grid.ready.values()
    reply.metadata.__dict__["_reply_to_message_id"] = "another"
    (found,) = transport.poll()
    assert (found.client, found.vectors["params"].tolist()) == ("ann", PAYLOAD.tolist())


def test_a_superlink_that_cannot_be_reached_is_no_devices_failure():
    transport, grid = devices({1: one("ann")}, train=fine)
    transport.clients()
    transport.submit([request("ann")], 9.0)

    def unreachable(message_ids):
        raise httpx.ConnectError("refused")

    grid.pull_messages = unreachable
    with pytest.raises(httpx.ConnectError):
        transport.poll()


def test_a_device_that_could_not_answer_is_asked_again(monkeypatch):
    transport, grid = devices({1: one("ann"), 2: "TimeoutError: expired"})
    assert set(transport.clients()) == {"ann"}
    grid.holds[2] = one("bob")
    assert set(transport.clients()) == {"ann"}
    now = time.monotonic()
    monkeypatch.setattr("fedllm_app.flower.transport.time.monotonic", lambda: now + ASK_AGAIN_S + 1)
    assert set(transport.clients()) == {"ann", "bob"}
    assert grid.queries == [1, 2, 2]


@pytest.mark.parametrize("held", [{}, {"a": 1, "b": 2}, {"a\nround 7": 1}, {"a" * 201: 1}])
def test_a_device_is_one_client_with_a_name_that_a_log_can_show(held, said):
    transport, _ = devices({1: one("ann"), 2: Holdings(held)})
    assert set(transport.clients()) == {"ann"}
    assert "node 2 is left out" in said.text and "\nround 7" not in said.text


@pytest.mark.parametrize(
    "odd", ["ValueError: no data", RecordDict(), Holdings({"x": 3}, 99)],
    ids=["error", "no words", "says it is a simulation"],
)  # fmt: skip
def test_a_device_with_an_odd_answer_does_not_end_the_run(said, odd):
    transport, _ = devices({1: one("ann"), 2: odd})
    found = transport.clients()
    assert found["ann"] == 5
    if not isinstance(odd, Holdings):
        assert set(found) == {"ann"}
        assert "node 2 is left out" in said.text


def test_a_busy_device_is_not_given_another_job():
    transport, grid = devices({1: one("ann"), 2: one("bob")})
    transport.clients()
    transport.submit([request("ann", "bob")], 9.0)
    grid.answer_later(2, pack_replies([Reply(1, "bob", {"params": PAYLOAD})]))
    assert [r.client for r in transport.poll()] == ["bob"]
    transport.submit([request("ann", "bob", t=2)], 9.0)
    (refused,) = transport.poll()
    assert (refused.job, refused.client, refused.reason) == (2, "ann", "late")
    assert "still at an earlier job" in refused.error
    assert [m.metadata.dst_node_id for m in grid.pushed.values()] == [1, 2, 2]


def test_a_busy_device_is_not_sampled_and_its_late_answer_makes_it_free():
    transport, grid = devices({1: one("ann"), 2: one("bob")})
    clients = transport.clients()
    transport.submit([request("ann", "bob")], 9.0)
    assert transport.busy() == {"ann", "bob"}
    grid.answer_later(2, pack_replies([Reply(1, "bob", {"params": PAYLOAD})]))
    pacing = Deadline(clients=1, asked=2, seed=0)
    assert first_free(pacing, transport, RunState(), clients, ()) == ["bob"]
    assert [reply.client for reply in transport.poll()] == ["bob"]  # its bytes are counted
    # One whose node is gone is not waited for.
    transport.submit([request("bob", t=2)], 9.0)
    assert first_free(pacing, transport, RunState(), clients, [(1, "ann")]) == []
    del grid.holds[1]
    assert first_free(pacing, transport, RunState(), clients, ()) == ["ann"]


def test_a_round_waits_where_every_device_is_busy(monkeypatch):
    transport, grid = devices({1: one("ann")})
    clients = transport.clients()
    transport.submit([request("ann")], 9.0)
    answer = pack_replies([Reply(1, "ann", {"params": PAYLOAD})])
    monkeypatch.setattr(
        "fedllm_app.server.pacing.free.time.sleep", lambda s: grid.answer_later(1, answer)
    )
    assert first_free(Sync(asked=1, seed=0), transport, RunState(), clients, ()) == ["ann"]


def test_a_late_answer_frees_its_device_and_is_told_as_of_its_own_job():
    transport, grid = devices({1: one("ann")})
    transport.clients()
    transport.submit([request("ann")], 9.0)
    grid.answer_later(1, pack_replies([Reply(1, "ann", {"params": PAYLOAD})]))
    transport.submit([request("ann", t=2)], 9.0)
    assert len(grid.pushed) == 2
    (late,) = transport.poll()
    assert (late.job, late.client) == (1, "ann")


def test_a_late_answer_during_the_next_round_is_read_as_of_its_own_job():
    transport, grid = devices({1: one("ann"), 2: one("bob")})
    transport.clients()
    transport.submit([request("ann", "bob")], 9.0)
    transport.submit([request("ann", "bob", t=2)], 9.0)
    assert len(transport.poll()) == 2  # both are busy
    grid.answer_later(1, pack_replies([Reply(1, "ann", {"params": PAYLOAD})]))
    (late,) = transport.poll()
    assert (late.job, late.client) == (1, "ann")


def test_a_device_that_left_with_an_open_job_is_forgotten():
    transport, grid = devices({1: one("ann")})
    transport.clients()
    transport.submit([request("ann")], 9.0)
    grid.holds = {2: one("ann")}
    transport.clients()
    transport.submit([request("ann", t=2)], 9.0)
    assert [m.metadata.dst_node_id for m in grid.pushed.values()] == [1, 2]


def test_a_message_that_cannot_be_sent_fails_its_jobs_at_once():
    transport, grid = devices({1: one("ann"), 2: one("bob")}, train=fine)
    transport.clients()
    grid.lost = {1}
    transport.submit([request("ann", "bob")], 9.0)
    replies = {r.client: r for r in transport.poll()}
    assert replies["ann"].reason == "error"
    assert "did not take the message" in replies["ann"].error
    assert replies["bob"].vectors


def test_a_device_cannot_claim_more_examples_than_weights_can_hold():
    with pytest.raises(WireError, match="expected 0 to 2"):
        check_device(Holdings({"ann": 10**17}))


def test_a_job_within_a_round_loses_no_answer_to_an_earlier_one():
    transport, grid = devices({1: one("ann"), 2: one("bob"), 3: one("cid")}, train=fine)
    transport.clients()
    grid.lost.add(2)
    transport.submit([request("ann", "bob")], 9.0)
    # Before anything is polled, a free device is given a job, as asynchronous rounds do.
    transport.submit([request("cid", t=2)], 9.0)
    found = {(reply.job, reply.client): bool(reply.vectors) for reply in transport.poll()}
    assert found == {(1, "ann"): True, (1, "bob"): False, (2, "cid"): True}
