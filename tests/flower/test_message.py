"""Message, version 4: there and back, and whatever a client sends is refused with one error."""

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from fedllm_app.core.errors import WireError
from fedllm_app.core.job import Job, Reply, Request, TrainMetrics
from fedllm_app.core.plan import ClientPlan, TopK, Work
from fedllm_app.flower.message import (
    Holdings,
    last_line,
    pack_holdings,
    pack_replies,
    pack_request,
    read_replies,
    reply_to,
    unpack_holdings,
    unpack_replies,
    unpack_request,
)

PLAN = ClientPlan(up=TopK(0.25), work=Work(steps=3)).to_json()
REQUEST = Request(
    "all", PLAN, {"params": np.arange(9, dtype=np.uint8), "control": np.ones(2, np.uint8)},
    (Job(7, "älice", 21, 5, 3, 8), Job(7, "b")),
    "ab" * 16, "cd" * 16, 7,
)  # fmt: skip
JOBS = (Job(7, "a"), Job(7, "b"), Job(7, "c"))
REPLIES = [
    Reply(7, "a", {"params": np.array([1, 2, 3], np.uint8)}, TrainMetrics(0.1, 4, 8, 2, 1 / 3)),
    Reply(7, "b", error="ValueError: no", reason="non-finite"),
    Reply(7, "c", {"params": np.zeros(0, np.uint8), "control": np.ones(1, np.uint8)}),
]


def same(mine, theirs):
    """Compare dataclasses that hold arrays."""
    for name, value in vars(mine).items():
        other = getattr(theirs, name)
        if name == "vectors":
            assert {n: (v.dtype, v.tolist()) for n, v in other.items()} == {
                n: (v.dtype, v.tolist()) for n, v in value.items()
            }
        else:
            assert other == value


def records(words, payload=b""):
    made = RecordDict()
    if words is not None:
        text = words if isinstance(words, str) else json.dumps(words)
        made["words"] = ConfigRecord({"json": text})
    if payload is not None:
        made["payload"] = ArrayRecord({"payload": Array("uint8", (len(payload),), "raw", payload)})
    return made


def words_of(content):
    return json.loads(content.config_records["words"]["json"])


def test_a_request_there_and_back():
    same(REQUEST, unpack_request(pack_request(REQUEST)))


def test_replies_there_and_back():
    for mine, theirs in zip(REPLIES, unpack_replies(pack_replies(REPLIES)), strict=True):
        same(mine, theirs)


@given(st.lists(st.none() | st.binary(max_size=20), min_size=1, max_size=5))
def test_updates_are_packed_end_to_end(updates):
    replies = [
        Reply(1, str(i), {} if u is None else {"params": np.frombuffer(u, np.uint8)})
        for i, u in enumerate(updates)
    ]
    content = pack_replies(replies)
    # One Array, however many jobs: every Array is a set of requests of its own.
    assert [len(r) for r in content.array_records.values()] == [1]
    packed = content.array_records["payload"]["payload"].data
    assert packed == b"".join(u or b"" for u in updates)
    for mine, theirs in zip(replies, unpack_replies(content), strict=True):
        same(mine, theirs)


def test_holdings_there_and_back():
    held = Holdings({"a": 3, "b": 0}, 4)
    assert unpack_holdings(pack_holdings(held)) == held


def test_a_message_is_one_version():
    words = words_of(pack_request(REQUEST)) | {"version": 1}
    with pytest.raises(WireError, match="message version is 1; expected 4"):
        unpack_request(records(words))
    with pytest.raises(WireError, match="reply version is 1; expected 4"):
        unpack_replies(records({"version": 1, "answers": []}))


ANSWER = words_of(pack_replies(REPLIES[:1]))["answers"][0]


def answers(**changes):
    return {"version": 4, "answers": [ANSWER | changes]}


HOSTILE = {
    "no words": None,
    "no JSON": "{",
    "NUL": "\0",
    "deep": "[" * 100_000,
    "a list": [],
    "no version": {"answers": []},
    "no answers": {"version": 4},
    "answers that are none": {"version": 4, "answers": [3]},
    "one key more": {"version": 4, "answers": [], "more": 1},
    "a job that is text": answers(job="7"),
    "a client that is a number": answers(client=7),
    "a length that is not whole": answers(vectors=[["params", 3.5]]),
    "a length too short": answers(vectors=[["params", 2]]),
    "a length too long": answers(vectors=[["params", 4]]),
    "no vector and bytes": answers(vectors=[]),
    "a vector twice": answers(vectors=[["params", 1], ["params", 2]]),
    "a length beyond memory": answers(vectors=[["params", 10**30]]),
    "a reason nobody knows": answers(reason="aliens"),
    "metrics missing": answers(metrics={}) | {"version": 4, "answers": [{}]},
    "units that are not whole": answers(metrics=ANSWER["metrics"] | {"units": 1.5}),
    "units that are text": answers(metrics=ANSWER["metrics"] | {"units": "many"}),
    "one metric more": answers(metrics=ANSWER["metrics"] | {"more": 1}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_replies(case):
    with pytest.raises(WireError):
        unpack_replies(records(HOSTILE[case], b"abc"))


def test_lengths_that_cancel_out_are_refused():
    lengths = ([["params", 5]], [["params", -2]])
    words = {"version": 4, "answers": [ANSWER | {"vectors": found} for found in lengths]}
    with pytest.raises(WireError, match="their lengths sum to 5"):
        unpack_replies(records(words, b"abc"))


def test_no_payload_is_refused():
    with pytest.raises(WireError, match="no payload"):
        unpack_replies(records({"version": 4, "answers": []}, None))
    with pytest.raises(WireError, match="no payload"):
        unpack_request(RecordDict())


def test_a_long_error_is_cut_to_one_line():
    content = pack_replies([Reply(1, "a", error="no\n" * 10_000)])
    (reply,) = unpack_replies(content)
    assert len(reply.error) <= 500
    assert "\n" not in reply.error


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)
CHANGED = st.dictionaries(st.sampled_from(sorted(ANSWER)), JSON, max_size=3).map(
    lambda changes: answers(**changes)
)
METRIC = st.tuples(st.sampled_from(sorted(ANSWER["metrics"])), JSON).map(
    lambda item: answers(metrics=ANSWER["metrics"] | {item[0]: item[1]})
)


@pytest.fixture(autouse=True)
def _identity():
    """Give this process the names without which Flower makes no message."""
    kept = {k: getattr(TaskIdentity, k) for k in ("_run_id", "_node_id", "_task_id")}
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    yield
    for key, value in kept.items():
        setattr(TaskIdentity, key, value)


def answered(content):
    question = Message(RecordDict(), dst_node_id=2, message_type="train")
    question.metadata.__dict__["_message_id"] = "q"
    return reply_to(question, content)


@given(JSON | CHANGED | METRIC | st.text(), st.binary(max_size=6))
def test_every_job_has_one_reply_whatever_comes(words, payload):
    replies = read_replies(answered(records(words, payload)), JOBS)
    assert sorted((r.job, r.client) for r in replies) == [(7, "a"), (7, "b"), (7, "c")]
    for reply in replies:
        assert reply.vectors or reply.error or words


@given(JSON | st.text())
def test_hostile_words_of_a_query(words):
    try:
        held = unpack_holdings(records(words, None))
    except WireError:
        return
    assert all(isinstance(n, int) for n in held.counts.values())


@given(JSON | CHANGED)
def test_hostile_words_of_a_request(words):
    with pytest.raises(WireError):
        unpack_request(records(words))


def test_an_answer_of_another_client_spoils_the_message():
    content = pack_replies([REPLIES[0], Reply(7, "z", {"params": np.ones(2, np.uint8)})])
    replies = read_replies(answered(content), JOBS[:2])
    assert [r.client for r in replies] == ["a", "b"]
    assert all("'z', which was not asked here" in r.error for r in replies)
    assert all(not r.vectors and r.reason == "malformed" for r in replies)


def test_an_answer_to_another_round_spoils_the_message():
    replies = read_replies(
        answered(pack_replies([Reply(6, "a", {"params": np.ones(2, np.uint8)})])), JOBS[:1]
    )
    assert not replies[0].vectors
    assert replies[0].reason == "malformed"


def test_jobs_without_an_answer_are_named():
    replies = read_replies(answered(pack_replies(REPLIES[:1])), JOBS)
    assert [(r.client, r.error) for r in replies] == [
        ("a", ""), ("b", "no answer"), ("c", "no answer"),
    ]  # fmt: skip


def test_an_answer_that_comes_twice_counts_once():
    replies = read_replies(answered(pack_replies([REPLIES[0]] * 3)), JOBS[:1])
    assert len(replies) == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Traceback:\n  File x\nValueError: no luck\n\n", "ValueError: no luck"),
        ("", "no reason given"),
        (None, "no reason given"),
        ("x" * 900, "x" * 500),
    ],
)
def test_the_last_line_of_a_traceback_is_the_reason(text, shown):
    assert last_line(text) == shown
