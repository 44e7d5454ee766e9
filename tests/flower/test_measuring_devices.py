"""Devices are asked to measure, over Flower's grid: who answers, who is late, who says nonsense."""

import numpy as np
import pytest
from fake_grid import PAYLOAD, devices, fine, request
from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode

from fedllm_app.core.errors import WireError
from fedllm_app.core.job import Measurement
from fedllm_app.flower.measuring import pack_measurements
from fedllm_app.flower.message import Holdings, records_of, reply_to, unpack_request
from fedllm_app.flower.transport import check_device

pytestmark = pytest.mark.usefixtures("identity")
HELD = {1: Holdings({"ann": 5}, held={"ann": 2}), 2: Holdings({"bob": 3}, held={"bob": 1})}
SUMS = {"units": 2, "loss_sum": 0.5, "tp": [1, 0]}


def answers(message):
    """Answer a job, or a question with sums."""
    if message.metadata.message_type == "train":
        return fine(message)
    asked = unpack_request(message.content)
    assert asked.vectors["params"].tolist() == PAYLOAD.tolist()
    return reply_to(message, pack_measurements([Measurement(j.client, SUMS) for j in asked.jobs]))


def asked(answer, holds=HELD):
    transport, grid = devices(dict(holds), train=answer)
    transport.clients()
    found = transport.measure(request("ann", "bob"), 0.05)
    return {one.client: one for one in found}, transport, grid


def test_every_device_is_asked_by_a_message_of_its_own():
    found, transport, grid = asked(answers)
    assert found == {c: Measurement(c, SUMS) for c in ("ann", "bob")}
    pushed = [(m.metadata.dst_node_id, m.metadata.message_type) for m in grid.pushed.values()]
    assert pushed == [(1, "evaluate"), (2, "evaluate")]
    assert transport.held() == {"ann": 2, "bob": 1}
    assert transport.busy() == set()


def test_a_late_device_is_busy_until_its_answer_comes():
    def bob_is_late(message):
        late = message.metadata.dst_node_id == 2 and message.metadata.message_type == "evaluate"
        return None if late else answers(message)

    found, transport, grid = asked(bob_is_late)
    assert set(found) == {"ann"}
    assert transport.busy() == {"bob"}
    transport.submit([request("ann", "bob")], 9.0)
    replies = {reply.client: reply for reply in transport.poll()}
    assert replies["ann"].vectors and replies["bob"].reason == "late"
    grid.answer_later(2, pack_measurements([Measurement("bob", SUMS)]))
    assert transport.busy() == set()
    transport.submit([request("bob", t=2)], 9.0)
    assert [reply.client for reply in transport.poll()] == ["bob"]


def test_a_late_device_that_has_left_is_forgotten():
    _, transport, grid = asked(lambda message: None)
    assert transport.busy() == {"ann", "bob"}
    grid.holds = {3: HELD[2]}
    transport.clients()
    assert transport.busy() == set()


HOSTILE = {
    "no words": RecordDict(),
    "no answer": records_of({"version": 4, "found": []}, None),
    "another version": records_of({"version": 1, "found": []}, None),
    "of another": pack_measurements([Measurement("ann", SUMS)]),
    "twice": pack_measurements([Measurement("bob", SUMS)] * 2),
    "words as a sum": pack_measurements([Measurement("bob", {"units": "2"})]),
    "sums in sums": pack_measurements([Measurement("bob", {"units": {"a": 2}})]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_answer_takes_no_other_with_it(name):
    def odd(message):
        spoilt = message.metadata.dst_node_id == 2
        return reply_to(message, HOSTILE[name]) if spoilt else answers(message)

    found, _, _ = asked(odd)
    assert found["ann"].sums == SUMS
    assert (found["bob"].sums, found["bob"].reason) == ({}, "malformed")
    assert found["bob"].error and "\n" not in found["bob"].error


def test_a_sum_that_is_no_number_arrives_as_such():
    found, _, _ = asked(
        lambda m: reply_to(m, pack_measurements([Measurement("ann", {"loss_sum": float("nan")})]))
    )
    assert np.isnan(found["ann"].sums["loss_sum"])  # tasks/sums.py refuses it


def test_a_device_that_fails_or_is_gone_says_why():
    def fails(message):
        why = "Traceback\n  File\nDataError: data.labels is wrong"
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, why), reply_to=message)

    transport, grid = devices(dict(HELD), train=fails)
    transport.clients()
    grid.lost = {2}
    found = {one.client: one for one in transport.measure(request("ann", "bob", "cid"), 0.05)}
    assert found["ann"].error == "DataError: data.labels is wrong"
    assert found["bob"].error == found["cid"].error == "Flower did not take the message"


@pytest.mark.parametrize("held", [{"ann": -1}, {"ann": 10**17}, {"bob": 2}])
def test_a_device_holds_out_examples_of_its_own(held):
    with pytest.raises(WireError):
        check_device(Holdings({"ann": 5}, held=held))
