"""Jobs over Flower's grid: who is given what, who is asked, and what becomes of odd answers.

The grid is a list of nodes in memory; every message and reply is Flower's own.
"""

import uuid

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from toys import PARAMS, P, toy_device, toy_loop

from fedllm_app.client.train import answer
from fedllm_app.core.errors import WireError
from fedllm_app.core.job import Job, Reply, Request
from fedllm_app.core.plan import ClientPlan
from fedllm_app.message import Holdings, pack_holdings, pack_replies, reply_to, unpack_request
from fedllm_app.server.strategy import FedSparse, FlowerTransport

PAYLOAD = np.arange(8, dtype=np.uint8)


@pytest.fixture(autouse=True)
def _identity():
    """Give this process the names without which Flower makes no message."""
    kept = {k: getattr(TaskIdentity, k) for k in ("_run_id", "_node_id", "_task_id")}
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    yield
    for key, value in kept.items():
        setattr(TaskIdentity, key, value)


class FakeGrid:
    """Nodes that answer at once, later, or never.

    Attributes
    ----------
    holds : by node, what it answers to a query: holdings, an error text, odd records, or never.
    train : what a node answers to a train message; None is not yet.
    lost : nodes to which nothing can be sent.
    """

    def __init__(self, holds, train=None):
        self.holds, self.train, self.lost = holds, train or (lambda message: None), set()
        self.queries, self.pushed, self.ready = [], {}, {}

    def get_node_ids(self):
        return list(self.holds)

    def push_messages(self, messages):
        ids = []
        for message in messages:
            node = message.metadata.dst_node_id
            if node in self.lost:
                ids.append(None)
                continue
            message.metadata.__dict__["_message_id"] = str(uuid.uuid4())
            ids.append(message.metadata.message_id)
            if message.metadata.message_type == "query":
                self.queries.append(node)
                reply = self.held(message)
            else:
                self.pushed[message.metadata.message_id] = message
                reply = self.train(message)
            if reply is not None:
                self.ready[message.metadata.message_id] = reply
        return ids

    def held(self, question):
        said = self.holds[question.metadata.dst_node_id]
        if isinstance(said, str):
            return Message(Error(0, said), reply_to=question)
        if said is None:
            return None
        return reply_to(question, pack_holdings(said) if isinstance(said, Holdings) else said)

    def pull_messages(self, message_ids):
        assert None not in message_ids
        return [self.ready.pop(i) for i in message_ids if i in self.ready]

    def answer_later(self, node, content):
        """Let the newest message to a node be answered."""
        message = [m for m in self.pushed.values() if m.metadata.dst_node_id == node][-1]
        reply = content if isinstance(content, Message) else reply_to(message, content)
        self.ready[message.metadata.message_id] = reply


def request(*clients, t=1, group="all"):
    jobs = tuple(Job(t, c) for c in clients)
    return Request(group, ClientPlan().words(), PAYLOAD, jobs, "ab" * 16, "cd" * 16)


def fine(message):
    asked = unpack_request(message.content)
    return reply_to(message, pack_replies([Reply(j.id, j.client, PAYLOAD) for j in asked.jobs]))


def simulation(counts, nodes=(11, 12), train=fine):
    grid = FakeGrid(dict.fromkeys(nodes, Holdings(counts, len(nodes))), train)
    return FlowerTransport(grid, 1, devices=False), grid


def devices(holds, wait_for=1, train=None):
    grid = FakeGrid(holds, train)
    return FlowerTransport(grid, wait_for, devices=True), grid


def one(client, n=5):
    return Holdings({client: n})


def test_in_a_simulation_one_node_speaks_for_all():
    transport, grid = simulation({"a": 3, "b": 0})
    assert transport.clients() == {"a": 3, "b": 0}
    assert transport.clients() == {"a": 3, "b": 0}
    assert grid.queries == [11]


def test_the_first_round_waits_for_the_whole_federation(monkeypatch):
    transport, grid = simulation({"a": 3}, nodes=(11,))
    grid.holds[11] = Holdings({"a": 3}, 3)
    slept = []

    def arrive(seconds):
        slept.append(seconds)
        grid.holds[12 + len(slept)] = Holdings({}, 3)

    monkeypatch.setattr("fedllm_app.server.strategy.time.sleep", arrive)
    assert transport.clients() == {"a": 3}
    assert len(slept) == 2


def test_the_longest_jobs_go_first_onto_the_least_loaded():
    counts = {"a": 8, "b": 7, "c": 6, "d": 5, "e": 4}
    transport, _ = simulation(counts)
    transport.clients()
    given = {n: [j.client for j in r.jobs] for n, r in transport.assign([request(*"edcba")])}
    # 8 | 7, then 6 to the 7, 5 to the 8, 4 to the 13 that came first by node.
    assert given == {11: ["a", "d", "e"], 12: ["b", "c"]}


def test_the_load_counts_over_groups_and_a_node_gets_one_message_per_group():
    transport, grid = simulation({"a": 8, "b": 7, "c": 6, "d": 5})
    transport.clients()
    transport.submit([request("a", group="x"), request("b", "c", "d", group="y")], 9.0)
    sent = [
        (m.metadata.dst_node_id, unpack_request(m.content).group,
         "".join(j.client for j in unpack_request(m.content).jobs))
        for m in grid.pushed.values()
    ]  # fmt: skip
    assert sorted(sent) == [(11, "x", "a"), (11, "y", "d"), (12, "y", "bc")]
    assert {m.metadata.ttl for m in grid.pushed.values()} == {9.0}
    assert {m.metadata.message_type for m in grid.pushed.values()} == {"train"}


def test_every_job_of_a_simulation_is_answered():
    transport, _ = simulation({"a": 8, "b": 7, "c": 6})
    transport.clients()
    transport.submit([request(*"abc")], 9.0)
    replies = transport.poll()
    assert sorted(r.client for r in replies) == ["a", "b", "c"]
    assert all(r.update.tolist() == PAYLOAD.tolist() for r in replies)
    assert transport.poll() == []


def test_a_simulation_forgets_what_was_open(monkeypatch):
    transport, grid = simulation({"a": 8}, train=None)
    transport.clients()
    transport.submit([request("a")], 9.0)
    grid.answer_later(11, pack_replies([Reply(1, "a", PAYLOAD)]))
    transport.submit([request("a", t=2)], 9.0)
    assert transport.poll() == []


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
        "fedllm_app.server.strategy.time.sleep", lambda s: grid.holds.update({2: one("bob")})
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


def test_replies_that_flower_cannot_read_end_no_run(said):
    transport, grid = devices({1: one("ann")})
    transport.clients()
    transport.submit([request("ann")], 9.0)

    def unreadable(message_ids):
        raise ValueError("no such dtype")

    grid.pull_messages = unreadable
    assert transport.poll() == []
    assert "cannot be read and are lost" in said.text


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


def test_in_a_simulation_a_failed_query_is_everybodys():
    grid = FakeGrid({1: "Traceback\nConfigError: data.train is wrong"})
    transport = FlowerTransport(grid, 1, devices=False)
    with pytest.raises(WireError, match=r"ConfigError: data.train is wrong"):
        transport.clients()


def test_a_busy_device_is_not_given_another_job():
    transport, grid = devices({1: one("ann"), 2: one("bob")})
    transport.clients()
    transport.submit([request("ann", "bob")], 9.0)
    grid.answer_later(2, pack_replies([Reply(1, "bob", PAYLOAD)]))
    assert [r.client for r in transport.poll()] == ["bob"]
    transport.submit([request("ann", "bob", t=2)], 9.0)
    (refused,) = transport.poll()
    assert (refused.job, refused.client, refused.reason) == (2, "ann", "late")
    assert "still at an earlier job" in refused.error
    assert [m.metadata.dst_node_id for m in grid.pushed.values()] == [1, 2, 2]


def test_a_late_answer_frees_its_device_and_is_not_folded_in():
    transport, grid = devices({1: one("ann")})
    transport.clients()
    transport.submit([request("ann")], 9.0)
    grid.answer_later(1, pack_replies([Reply(1, "ann", PAYLOAD)]))
    transport.submit([request("ann", t=2)], 9.0)
    assert len(grid.pushed) == 2
    assert transport.poll() == []


def test_a_late_answer_during_the_next_round_is_read_as_of_its_own_job():
    transport, grid = devices({1: one("ann"), 2: one("bob")})
    transport.clients()
    transport.submit([request("ann", "bob")], 9.0)
    transport.submit([request("ann", "bob", t=2)], 9.0)
    assert len(transport.poll()) == 2  # both are busy
    grid.answer_later(1, pack_replies([Reply(1, "ann", PAYLOAD)]))
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


def test_an_error_reply_is_an_error_of_each_of_its_jobs():
    def fails(message):
        return Message(Error(0, "Traceback\n  File\nRuntimeError: out of memory"), reply_to=message)

    transport, _ = simulation({"a": 2, "b": 2}, nodes=(11,), train=fails)
    transport.clients()
    transport.submit([request("a", "b")], 9.0)
    replies = transport.poll()
    assert [(r.client, r.error, r.reason) for r in replies] == [
        (c, "RuntimeError: out of memory", "error") for c in "ab"
    ]


def test_a_message_that_cannot_be_sent_fails_its_jobs_at_once():
    transport, grid = devices({1: one("ann"), 2: one("bob")}, train=fine)
    transport.clients()
    grid.lost = {1}
    transport.submit([request("ann", "bob")], 9.0)
    replies = {r.client: r for r in transport.poll()}
    assert replies["ann"].reason == "error"
    assert "did not take the message" in replies["ann"].error
    assert replies["bob"].update is not None


def test_a_strategy_driven_by_hand_takes_the_same_step(tmp_path):
    slopes = {"a": np.full(P, 1, np.float32), "b": np.full(P, 3, np.float32)}
    device = toy_device(slopes, tmp_path)

    def train(message):
        return reply_to(message, pack_replies(answer(device, unpack_request(message.content))))

    grid = FakeGrid({1: Holdings({"a": 1, "b": 1}, 1)}, train)
    strategy = FedSparse(
        lambda transport: toy_loop(tmp_path / "run", transport, rounds=2), 1, False, "tree"
    )
    for t in (1, 2):
        messages = list(strategy.configure_train(t, None, None, grid))
        ids = grid.push_messages(messages)
        arrays, metrics = strategy.aggregate_train(t, grid.pull_messages(ids))
        assert arrays["params"].numpy().tolist() == (PARAMS - 2 * t).tolist()
        assert "train-loss" in metrics
    assert strategy.aggregate_evaluate(2, [])["accuracy"] > 0


def test_start_plays_the_loop_and_prints_the_summary(tmp_path, said):
    slopes = {"a": np.full(P, 1, np.float32), "b": np.full(P, 3, np.float32)}
    device = toy_device(slopes, tmp_path)

    def train(message):
        return reply_to(message, pack_replies(answer(device, unpack_request(message.content))))

    grid = FakeGrid({1: Holdings({"a": 1, "b": 1}, 1)}, train)
    strategy = FedSparse(
        lambda transport: toy_loop(tmp_path / "run", transport, rounds=3), 1, False, "a tree"
    )
    result = strategy.start(grid)
    assert result.arrays["params"].numpy().tolist() == (PARAMS - 6).tolist()
    assert said.messages[0] == "a tree"
    assert list(result.evaluate_metrics_serverapp) == [3]
