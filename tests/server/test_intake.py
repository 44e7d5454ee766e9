"""Bytes and numbers from clients are hostile: accepted as asked for, or dropped and named."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import BASE, LAYOUT, OTHER, P, at

from fedllm_app.core.job import Job, Reply, Request, TrainMetrics
from fedllm_app.core.plan import ClientPlan, TopK
from fedllm_app.core.support import All, Derived
from fedllm_app.run.ledger import Ledger
from fedllm_app.server.aggregate import Mean
from fedllm_app.server.asked import asked_for
from fedllm_app.server.intake import Intake
from fedllm_app.wire.codec import WireSettings, encode
from fedllm_app.wire.slices import Origin

DENSE = ClientPlan()
NO_A = Derived("tensors", {"without": ["*lora_A*"]})
FINE = TrainMetrics(loss_sum=2.0, units=4, examples=4, steps=1)


def intake_of(plan, clients, ledger, wire=None):
    jobs = tuple(Job(3, c) for c in clients)
    request = Request("all", plan.to_json(), {}, jobs, LAYOUT.hash, BASE, 3)
    asked = asked_for(request, plan, LAYOUT, 0, wire or WireSettings())
    means = {name: Mean(P, cohort=len(clients)) for name in asked[0].vectors}
    return Intake(3, asked, means, lambda job, metrics: 1, Ledger(ledger))


def waiting(taken):
    return {client for _, client in taken.open}


@pytest.fixture
def intake(tmp_path):
    """Return what takes the replies of clients a, b and c under a plan."""

    def build(plan=DENSE, wire=None, name="ledger"):
        return intake_of(plan, "abc", tmp_path / f"{name}.jsonl", wire)

    return build


def payload(values, positions=None, layout=LAYOUT.hash, base=BASE, value_type="fp32", **how):
    values, origin = np.asarray(values, np.float32), Origin(P, layout, base)
    return encode(values, positions, origin, value_type=value_type, block=256, **how)


ONES = payload(np.ones(P))


def reply(update=ONES, client="a", job=3, metrics=FINE):
    return Reply(job, client, {"params": update}, metrics)


def test_what_was_asked_for_is_folded_in(intake):
    taken = intake()
    taken.take(reply())
    taken.take(reply(payload(np.full(P, 3)), "c", metrics=TrainMetrics(4.0, 8, 8, 2)))
    assert taken.means["params"].mean().tolist() == [2] * P
    assert waiting(taken) == {"b"}
    assert set(taken.accepted) == {(3, "a"), (3, "c")}
    assert taken.train_loss() == 0.5
    assert taken.ledger.totals.up_bytes == 2 * (64 + 80)


def nan_inside():
    bad = ONES.copy()
    bad[64:68] = np.array([np.nan], "<f4").view(np.uint8)
    return bad


TOP = ClientPlan(up=TopK(0.25))
TOP_OF_REST = ClientPlan(up=TopK(0.5, NO_A))
FIVE = np.arange(5)
REFUSED = {
    "no bytes": (ClientPlan(), np.zeros(0, np.uint8), "malformed"),
    "noise": (ClientPlan(), np.full(144, 7, np.uint8), "malformed"),
    "cut": (ClientPlan(), ONES[:-1], "malformed"),
    "oversize": (ClientPlan(), np.append(ONES, np.uint8(0)), "malformed"),
    "huge": (ClientPlan(), np.zeros(10**6, np.uint8), "malformed"),
    "not finite": (ClientPlan(), nan_inside(), "non-finite"),
    "too large a magnitude": (ClientPlan(), payload(at({3: 2**18})), "malformed"),
    "another layout": (ClientPlan(), payload(np.ones(P), layout=OTHER), "foreign"),
    "another base": (ClientPlan(), payload(np.ones(P), base=OTHER), "foreign"),
    "another type": (ClientPlan(), payload(np.ones(P), value_type="fp16"), "malformed"),
    "positions where all was asked": (ClientPlan(), payload(np.ones(5), FIVE), "malformed"),
    "all where the top was asked": (TOP, ONES, "malformed"),
    "one too few": (TOP, payload(np.ones(4), FIVE[:4]), "malformed"),
    "one too many": (TOP, payload(np.ones(6), np.arange(6)), "malformed"),
    "derived where the top was asked": (
        TOP, payload(np.ones(5), FIVE, derived=True), "malformed",
    ),
    "a top outside what was allowed": (TOP_OF_REST, payload(np.ones(7), np.arange(7)), "malformed"),
    "positions where they are derived": (
        ClientPlan(up=NO_A), payload(np.ones(14), np.arange(6, 20)), "malformed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_was_not_asked_for_is_dropped_and_leaves_the_mean(intake, said, case):
    plan, update, reason = REFUSED[case]
    taken = intake(plan)
    taken.take(reply(update))
    assert taken.dropped == {reason: 1}
    assert (taken.means["params"].n, taken.accepted, waiting(taken)) == (0, {}, {"b", "c"})
    assert f"client a, round 3: dropped ({reason})" in said.text
    # It came, and so it cost its bytes.
    assert taken.ledger.totals.up_bytes == update.size


def test_the_top_inside_a_derived_support_is_accepted(intake):
    taken = intake(TOP_OF_REST)
    taken.take(reply(payload(np.ones(7), np.arange(13, 20))))
    assert not taken.dropped


def test_too_many_bytes_are_refused_before_they_are_looked_at(intake, said):
    intake().take(reply(np.zeros(10**6, np.uint8)))
    assert "update has 1000000 bytes; expected at most 144" in said.text


HUGE = 10**400
NUMBERS = {
    "NaN loss": ({"loss_sum": math.nan}, "non-finite"),
    "infinite loss": ({"loss_sum": -math.inf}, "non-finite"),
    "NaN seconds": ({"train_s": math.nan}, "non-finite"),
    "negative units": ({"units": -4}, "malformed"),
    "units beyond any float": ({"units": HUGE}, "malformed"),
    "steps beyond any clock": ({"steps": HUGE}, "malformed"),
    "negative steps": ({"steps": -1}, "malformed"),
    "negative examples": ({"examples": -1}, "malformed"),
    "costs that are no numbers": ({"costs": {"energy-j": math.nan}}, "non-finite"),
    "negative costs": ({"costs": {"energy-j": -1.0}}, "non-finite"),
    "very many costs": ({"costs": dict.fromkeys(map(str, range(17)), 1.0)}, "malformed"),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_hostile_numbers_are_dropped(intake, case):
    changes, reason = NUMBERS[case]
    taken = intake()
    taken.take(reply(metrics=dataclasses.replace(FINE, **changes)))
    assert taken.dropped == {reason: 1}
    assert taken.means["params"].n == 0


def test_the_loss_does_not_depend_on_who_came_first(intake):
    # 1e16 + 1 is 1e16 in a float: only one order of summing can be meant.
    losses = {"a": 1e16, "b": -1e16, "c": 1.0}
    found = []
    for i, order in enumerate(("abc", "cab", "bca")):
        taken = intake(name=f"ledger-{i}")
        for client in order:
            taken.take(reply(client=client, metrics=TrainMetrics(losses[client], 1)))
        found.append(taken.train_loss())
    assert found == [1 / 3] * 3


def test_losses_that_overflow_together_do_not_end_the_run(intake):
    taken = intake()
    for client in "ab":
        taken.take(reply(client=client, metrics=TrainMetrics(1.7e308, 1)))
    assert taken.train_loss() == math.inf


def test_vectors_that_nobody_asked_for_are_dropped_and_cost_their_bytes(intake, said):
    taken = intake()
    odd = {"params": ONES, "x" * 10_000: ONES, "y": ONES[:3]}
    taken.take(Reply(3, "a", odd, FINE))
    assert taken.dropped == {"malformed": 1}
    assert taken.means["params"].n == 0
    assert taken.ledger.totals.up_bytes == 2 * ONES.size + 3
    assert max(len(record.getMessage()) for record in said.records) < 500
    taken.ledger.close()
    lines = (taken.ledger._file.path).read_text()
    assert "xxx" not in lines
    assert lines.count('"vector":"unknown"') == 2


def test_a_reply_counts_once_and_only_if_it_is_awaited(intake, said):
    taken = intake()
    taken.take(reply())
    taken.take(reply())
    taken.take(reply(client="nobody"))
    taken.take(reply(client="b", job=2))
    assert (taken.means["params"].n, waiting(taken), taken.dropped) == (1, {"b", "c"}, {})
    assert said.text.count("is not awaited") == 3
    # The one accepted, and the late one of round 2, which has travelled all the same.
    assert taken.ledger.totals.up_bytes == 2 * reply().vectors["params"].size


def test_an_error_is_counted_by_its_reason(intake, said):
    taken = intake()
    taken.take(Reply(3, "a", error="ValueError: no"))
    taken.take(Reply(3, "b", error="busy", reason="late"))
    taken.give_up()
    assert taken.dropped == {"error": 1, "late": 2}
    assert "client a, round 3: dropped (error): ValueError: no" in said.text
    assert "client c, round 3: dropped (late): no reply within round.timeout-s" in said.text
    assert not taken.open


def test_no_loss_of_no_replies(intake):
    assert intake().train_loss() is None


@given(
    changes=st.dictionaries(st.integers(0, ONES.size - 1), st.integers(0, 255), max_size=4),
    length=st.integers(0, ONES.size + 8),
    plan=st.sampled_from([ClientPlan(), TOP, TOP_OF_REST, ClientPlan(up=NO_A)]),
    number=st.integers(0, 10**9),
)
def test_changed_bytes_raise_nothing(tmp_path_factory, changes, length, plan, number):
    update = np.resize(ONES, length)
    for where, byte in changes.items():
        if where < length:
            update[where] = byte
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    taken = intake_of(plan, "a", folder / "ledger.jsonl")
    taken.take(reply(update))
    assert taken.means["params"].n + sum(taken.dropped.values()) == 1
    assert taken.ledger.totals.up_bytes >= update.size
    if taken.means["params"].n:
        assert plan.up == All()
        assert np.isfinite(taken.means["params"].mean()).all()


def test_what_is_sent_whole_may_lie_outside_what_is_chosen_from(intake):
    head = Derived("tensors", {"without": ["*lora*", "attention*"]})
    adapters = Derived("tensors", {"without": ["head*", "attention*"]})
    taken = intake(ClientPlan(up=TopK(0.5, adapters, head)))
    # Half of the ten entries of the adapters, and the head: 10 and 11.
    taken.take(reply(payload(np.ones(7), np.array([0, 1, 2, 3, 4, 10, 11]))))
    assert not taken.dropped


def test_a_job_that_never_left_says_nothing_of_what_may_still_come(intake):
    taken = intake()
    taken.take(Reply(3, "a", error="the device is still at an earlier job", reason="late"))
    assert taken.outstanding([("a", 2, 144)]) == (("a", 2, 144),)
    taken.take(reply(client="b"))
    assert taken.outstanding([("b", 2, 144)]) == ()


def test_agreement_is_the_mean_cosine_of_all_pairs_weighed_by_their_norms(intake):
    taken, rng = intake(), np.random.default_rng(1)
    updates = {c: s * rng.standard_normal(P).astype(np.float32) for c, s in (("a", 1), ("c", 5))}
    assert taken.agreement() is None
    updates["b"] = -2 * updates["a"] + updates["c"]
    for client, update in updates.items():
        taken.take(reply(payload(update), client))
    pairs = [(updates[a], updates[b]) for a, b in ("ab", "ac", "bc")]
    products = sum(float(x @ y) for x, y in pairs)
    norms = sum(float(np.linalg.norm(x) * np.linalg.norm(y)) for x, y in pairs)
    assert taken.agreement() == pytest.approx(products / norms, abs=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_updates_that_are_equal_agree_and_opposite_ones_do_not(intake, sign):
    taken = intake()
    for client, factor in (("a", 1), ("b", sign)):
        taken.take(reply(payload(factor * np.ones(P, np.float32)), client))
    assert taken.agreement() == pytest.approx(sign)
