"""Jobs over Flower's grid in simulation, and the strategy over them."""

import numpy as np
import pytest
from fake_grid import PAYLOAD, FakeGrid, request, simulation
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from toys import PARAMS, P, toy_device, toy_loop

from fedllm_app.client.answer import answer
from fedllm_app.core.errors import EngineError, WireError
from fedllm_app.core.job import Reply
from fedllm_app.flower.message import Holdings, pack_replies, reply_to, unpack_request
from fedllm_app.flower.strategy import FedSparse
from fedllm_app.flower.transport import FlowerTransport

pytestmark = pytest.mark.usefixtures("identity")


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

    monkeypatch.setattr("fedllm_app.flower.transport.time.sleep", arrive)
    assert transport.clients() == {"a": 3}
    assert len(slept) == 2


def test_the_longest_jobs_go_first_onto_the_least_loaded():
    transport, _ = simulation({"a": 4, "b": 5, "c": 6, "d": 7, "e": 8})
    transport.clients()
    given = {n: [j.client for j in r.jobs] for n, r in transport.assign([request(*"abcde")])}
    # 8 and 7, then 6 to the 7, 5 to the 8, and 4 to the first of two with 13.
    assert given == {11: ["e", "b", "a"], 12: ["d", "c"]}


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
    assert {m.metadata.ttl for m in grid.pushed.values()} == {27.0}
    assert {m.metadata.message_type for m in grid.pushed.values()} == {"train"}


def test_every_job_of_a_simulation_is_answered():
    transport, _ = simulation({"a": 8, "b": 7, "c": 6})
    transport.clients()
    transport.submit([request(*"abc")], 9.0)
    replies = transport.poll()
    assert sorted(r.client for r in replies) == ["a", "b", "c"]
    assert all(r.vectors["params"].tolist() == PAYLOAD.tolist() for r in replies)
    assert transport.poll() == []


def test_a_late_answer_in_a_simulation_is_told_as_of_its_own_round():
    transport, grid = simulation({"a": 8}, train=None)
    transport.clients()
    transport.submit([request("a")], 9.0)
    grid.answer_later(11, pack_replies([Reply(1, "a", {"params": PAYLOAD})]))
    transport.submit([request("a", t=2)], 9.0)
    (late,) = transport.poll()
    assert (late.job, late.client) == (1, "a")


def test_an_error_reply_is_an_error_of_each_of_its_jobs():
    def fails(message):
        reason = "Traceback\n  File\nRuntimeError: out of memory"
        code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        return Message(Error(code, reason), reply_to=message)

    transport, _ = simulation({"a": 2, "b": 2}, nodes=(11,), train=fails)
    transport.clients()
    transport.submit([request("a", "b")], 9.0)
    replies = transport.poll()
    assert [(r.client, r.error, r.reason) for r in replies] == [
        (c, "RuntimeError: out of memory", "error") for c in "ab"
    ]


def test_a_dead_worker_ends_the_run_and_is_no_clients_failure():
    reason = (
        "<class 'ray.exceptions.ActorDiedError'>:<'The actor died unexpectedly before finishing "
        "this task.\n\tclass_name: ClientAppActor\n\tpid: 16462\nThe actor is dead because its "
        "worker process has died.\n'>"
    )
    transport, _ = simulation(
        {"a": 2}, (11,), lambda m: Message(Error(ErrorCode.UNKNOWN, reason), reply_to=m)
    )
    transport.clients()
    transport.submit([request("a")], 9.0)
    with pytest.raises(EngineError, match=r"\(process 16462\) died: .* its worker process has"):
        transport.poll()


def test_a_full_disk_of_a_simulation_is_no_clients_failure():
    why = "OSError: [Errno 28] No space left on device: '/runs/a/clients'"

    def full(message):
        return reply_to(message, pack_replies([Reply(1, "a", error=why)]))

    transport, _ = simulation({"a": 2}, (11,), full)
    transport.clients()
    transport.submit([request("a")], 9.0)
    with pytest.raises(EngineError, match=r"the disk is full .*/runs/a/clients.*: make room"):
        transport.poll()


def test_a_strategy_driven_by_hand_is_refused(tmp_path):
    strategy = FedSparse(
        lambda transport: toy_loop(tmp_path, transport), 1, False, lambda loop: "tree"
    )
    with pytest.raises(NotImplementedError, match=r"call start\(grid\)"):
        strategy.configure_train(1, None, None, FakeGrid({}))
    with pytest.raises(NotImplementedError, match=r"call start\(grid\)"):
        strategy.aggregate_train(1, [])


def test_start_plays_the_loop_and_prints_the_summary(tmp_path, said):
    slopes = {"a": np.full(P, 1, np.float32), "b": np.full(P, 3, np.float32)}
    device = toy_device(slopes, tmp_path)

    def train(message):
        return reply_to(message, pack_replies(answer(device, unpack_request(message.content))))

    grid = FakeGrid({1: Holdings({"a": 1, "b": 1}, 1)}, train)
    strategy = FedSparse(
        lambda transport: toy_loop(tmp_path / "run", transport, rounds=3),
        1,
        False,
        lambda loop: "a tree",
    )
    result = strategy.start(grid)
    assert result.arrays["params"].numpy().tolist() == (PARAMS - 6).tolist()
    assert said.messages[0] == "a tree"
    assert list(result.evaluate_metrics_serverapp) == [3]


def test_in_a_simulation_a_failed_query_is_everybodys():
    grid = FakeGrid({1: "Traceback\nConfigError: data.train is wrong"})
    transport = FlowerTransport(grid, 1, devices=False)
    with pytest.raises(WireError, match=r"ConfigError: data.train is wrong"):
        transport.clients()


def test_a_job_within_a_round_goes_to_the_node_with_the_least_to_do():
    transport, grid = simulation({"a": 5, "b": 3, "c": 2}, train=lambda message: None)
    transport.clients()
    transport.submit([request("a", "b")], 9.0)
    transport.submit([request("c", t=2)], 9.0)
    first, second, third = (m.metadata.dst_node_id for m in grid.pushed.values())
    assert first != second == third  # with a's 5 examples, and with b's 3
