"""The real loop over a transport in memory: what spoils a round, what ends a run, what it writes.

Clients take one step of size 1 along their slopes; see toys.py.
"""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from toys import LAYOUT, PARAMS, P, Scripted, toy_device, toy_loop

from fedllm_app.core.errors import ConfigError, FedllmError
from fedllm_app.core.job import Reply
from fedllm_app.core.plan import ClientPlan
from fedllm_app.core.support import All, Derived, Draw, Positions, expand
from fedllm_app.devices.network import Network, NetworkSettings
from fedllm_app.run.metrics import read_lines
from fedllm_app.server.methods.base import Method, one_group
from fedllm_app.wire.codec import WireSettings, dense_bytes, encode
from fedllm_app.wire.header import Origin

SLOPES = {name: np.full(P, i + 1, np.float32) for i, name in enumerate("abcdefghijkl")}
REPLY = dense_bytes(P)


@pytest.fixture
def play(tmp_path):
    """Return a function that plays a run over scripted clients."""

    def run(clients="abc", name="run", edits=None, order=list, slow_s=0.0, device=None, **how):
        slopes = {c: SLOPES[c] for c in clients}
        how = {"clients": len(clients), "server": {"lr": 0.25}} | how
        made = toy_device(slopes, tmp_path / "kept", **(device or {}))
        transport = Scripted(made, dict.fromkeys(slopes, 1), edits or {}, order, slow_s=slow_s)
        loop = toy_loop(tmp_path / name, transport, **how)
        loop.why = loop.play()
        loop.rows = read_lines(tmp_path / name / "metrics.jsonl")
        return loop

    return run


def test_rounds_by_hand(play):
    loop = play("abc", rounds=3)
    # The mean slope is 2 and the server's rate a quarter.
    assert loop.optimizer.params.tolist() == (PARAMS - 1.5).tolist()
    assert loop.why == "all 3 rounds"
    assert [r["round"] for r in loop.rows] == [0, 1, 2, 3]
    first = loop.rows[1]
    assert first["clients"] == 3
    assert first["dropped"] == {}
    assert first["up-bytes"] == first["down-bytes"] == 3 * REPLY
    assert first["update-norm"] == pytest.approx(np.sqrt(P * 4))
    # One step's loss is slope . values = slope * 210, over one unit each.
    assert first["train-loss"] == pytest.approx((1 + 2 + 3) * 210 / 3)
    assert loop.rows[0]["headline"] == "accuracy"


def test_a_round_is_submitted_once(play):
    loop = play("abc", rounds=4)
    rounds = [{job.id for r in requests for job in r.jobs} for requests in loop.transport.submitted]
    assert rounds == [{1}, {2}, {3}, {4}]
    assert all(len(requests) == 1 for requests in loop.transport.submitted)


def test_jobs_carry_the_clock_and_the_last_accepted_job(play):
    # Client c fails in every round; its state has never been accepted.
    loop = play("abc", rounds=3, edits={"c": lambda r: [Reply(r.job, "c", error="no")]},
                device={"steps": 2})  # fmt: skip
    jobs = {j.client: j for j in loop.transport.submitted[2][0].jobs}
    assert {c: j.state_from for c, j in jobs.items()} == {"a": 2, "b": 2, "c": -1}
    assert {j.clock for j in jobs.values()} == {4}


def test_the_clock_counts_the_most_steps_of_a_round(play):
    # b trains for 5 steps where the others train for 1: nobody has trained for more.
    def five(reply):
        return patched(reply, metrics=replace(reply.metrics, steps=5))

    loop = play("abc", rounds=3, edits={"b": five})
    clocks = [r[0].jobs[0].clock for r in loop.transport.submitted]
    assert clocks == [0, 5, 10]
    assert loop.state.clock == 15


def test_what_follows_the_wait_has_to_fit_into_the_run_as_well(play):
    def slow(values_P):
        time.sleep(0.3)
        return {"accuracy": 0.5}

    loop = play("abc", rounds=1, evaluate=slow, max_seconds=30.0, timeout_s=600.0)
    assert loop.limits.closing_s >= 0.3
    before = loop.limits.timeout_s(loop.state)
    loop.limits.closing_s += 10
    assert loop.limits.timeout_s(loop.state) == pytest.approx(before - 10, abs=0.5)
    loop.limits.closing_s += 100
    assert loop.limits.timeout_s(loop.state) == 0.01


def patched(reply, **changes):
    return [Reply(**(vars(reply) | changes))]


def longer(payload):
    return np.append(payload, np.zeros(9, np.uint8))


def nan_inside(reply):
    update = reply.vectors["params"].copy()
    update[64:68] = np.array([np.nan], "<f4").view(np.uint8)
    return patched(reply, vectors={"params": update})


def encoded(values, positions=None, layout=LAYOUT.hash, base="ab" * 16):
    return encode(
        values.astype(np.float32), positions, Origin(P, layout, base), value_type="fp32", block=256
    )


EDITS = {
    "c": lambda r: patched(r, vectors={}, error="CUDA went away"),
    "d": lambda r: [],
    "e": lambda r: patched(r, vectors={"params": np.full(200, 9, np.uint8)}),
    "f": lambda r: patched(r, vectors={"params": encoded(np.ones(P), layout="00" * 16)}),
    "g": lambda r: patched(r, vectors={"params": encoded(np.ones(P), base="00" * 16)}),
    "h": nan_inside,
    "i": lambda r: patched(r, vectors={"params": encoded(np.ones(3), np.arange(3))}),
    "j": lambda r: patched(r, vectors={"params": longer(r.vectors["params"])}),
    "k": lambda r: [*patched(r, client="nobody"), r, r],
}


def test_bad_replies_are_dropped_counted_and_named_and_the_round_goes_on(play, said):
    loop = play("abcdefghijk", rounds=2, timeout_s=0.4, edits=EDITS, clip="off")
    for row in loop.rows[1:]:
        assert row["clients"] == 3
        assert row["dropped"] == {
            "error": 1, "foreign": 2, "late": 1, "malformed": 3, "non-finite": 1,
        }  # fmt: skip
    # a, b and k are left, with slopes 1, 2 and 11.
    np.testing.assert_allclose(loop.optimizer.params, PARAMS - 2 * 0.25 * 14 / 3, rtol=1e-6)
    for client, reason in zip("cdefghij", [
        "error): CUDA went away", "late", "malformed", "foreign", "foreign", "non-finite",
        "malformed", "malformed",
    ], strict=True):  # fmt: skip
        assert f"client {client}, round 1: dropped ({reason}" in said.text
    assert "client nobody: reply to job 1 is not awaited" in said.text
    ledger = read_lines(loop.recorder.folder / "ledger.jsonl")
    up = {r["client"]: r["accepted"] for r in ledger if r["direction"] == "up" and r["round"] == 1}
    # What arrived is in the ledger, dropped or not; c and d sent nothing.
    assert up == dict.fromkeys("abk", True) | dict.fromkeys("efghij", False)


def test_below_min_replies_no_step_is_taken_and_that_is_said(play, said):
    broken = {c: lambda r: patched(r, vectors={}, error="no") for c in "bc"}
    loop = play("abc", rounds=2, min_replies=2, edits=broken)
    assert loop.optimizer.params.tolist() == PARAMS.tolist()
    assert [r["update-norm"] for r in loop.rows[1:]] == [None, None]
    assert [r["clients"] for r in loop.rows[1:]] == [1, 1]
    assert "round 2 takes no step: 1 replies accepted, round.min-replies is 2" in said.text
    # Enough of them, and there is a step.
    assert play("abc", "again", min_replies=1, edits=broken).optimizer.params[0] == 0.75


def test_a_round_without_a_step_leaves_every_residual_as_it_was(play):
    # Only a answers in round 1, and that is too few: what it sent was not used.
    silent = {c: lambda r: [r] if r.job > 1 else [] for c in "bc"}
    how = {"method": "floss", "min_replies": 2, "timeout_s": 0.05, "rounds": 2,
           "strategy": {"d_down": 1.0, "d_up": 0.05, "error_feedback": True}}  # fmt: skip
    loop = play("abc", edits=silent, **how)
    last = {job.client: job.state_from for r in loop.transport.submitted[1] for job in r.jobs}
    assert last == {"a": -1, "b": -1, "c": -1}
    assert loop.rows[1]["update-norm"] is None


def test_a_mask_that_keeps_every_coordinate_is_dense(play):
    for method, strategy in (
        ("floss", {"d_down": 0.999, "d_up": 0.999}),
        ("fed-select", {"density": 1.0}),
        ("sparse-adapter", {"density": 0.999}),
        ("adapter-lth", {"decay": 0.999}),
    ):
        loop = play("abc", name=method, method=method, strategy=strategy, rounds=3)
        assert [r["clients"] for r in loop.rows[1:]] == [3] * 3
        assert loop.optimizer.params.tolist() == (PARAMS - 1.5).tolist()


def test_nobody_answers_and_the_run_goes_on(play):
    loop = play("ab", rounds=2, timeout_s=0.05, edits=dict.fromkeys("ab", lambda r: []))
    assert [r["dropped"] for r in loop.rows[1:]] == [{"late": 2}] * 2
    assert loop.rows[2]["train-loss"] is None


def test_a_round_lasts_no_longer_than_its_time_out(play):
    began = time.monotonic()
    play("abc", timeout_s=0.3, slow_s=0.2)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("key", ["max_up_bytes", "max_down_bytes"])
@pytest.mark.parametrize(("budget", "rounds"), [(9, 3), (8.99, 2), (3, 1), (2.99, 0)])
def test_a_byte_budget_is_used_up_but_never_exceeded(play, key, budget, rounds):
    loop = play("abc", rounds=5, evaluate_every=0, **{key: int(budget * REPLY)})
    totals = loop.recorder.ledger.totals
    spent = totals.up_bytes if key == "max_up_bytes" else totals.down_bytes
    assert spent == rounds * 3 * REPLY
    assert loop.state.round == rounds
    assert f"budget round.{key.replace('_', '-')}" in loop.why
    # It ends with an evaluation all the same, and nothing was sent in vain.
    assert loop.rows[-1]["round"] == rounds
    assert "evaluation" in loop.rows[-1]
    assert len(loop.transport.submitted) == rounds


def test_a_byte_budget_holds_for_sparse_uploads(play):
    # Their size is known only afterwards; the bound is what counts.
    budget = 10 * (64 + 23)
    loop = play("ab", rounds=50, method="floss", wire=WireSettings(), max_up_bytes=budget,
                strategy={"d_up": 0.25})  # fmt: skip
    assert budget - 2 * (64 + 23) < loop.recorder.ledger.totals.up_bytes <= budget


def test_a_byte_budget_holds_for_uploads_that_come_after_their_round(play):
    held = []

    def late(reply):
        held.append(reply)
        return held if len(held) == 3 else []  # in round 3, with those of rounds 1 and 2

    # Two payloads in round 1 and two in round 2; two more may come, so a third round is not begun.
    budget = {"max_up_bytes": 7 * REPLY, "timeout_s": 0.05}
    loop = play("abc", rounds=5, edits={"c": late}, **budget)
    assert loop.state.round == 2
    assert "budget round.max-up-bytes" in loop.why
    # With room for what is late it is begun, and all of it counts.
    held.clear()
    loop = play("abc", name="more", rounds=3, edits={"c": late}, max_up_bytes=9 * REPLY,
                timeout_s=0.05)  # fmt: skip
    assert loop.recorder.ledger.totals.up_bytes == 9 * REPLY
    assert loop.state.pending == ()


def test_what_may_still_come_late_is_known_after_a_resume_and_ends_with_any_answer(play):
    budget = {"max_up_bytes": 5 * REPLY, "timeout_s": 0.05, "checkpoint_every": 1}
    loop = play("abc", rounds=1, edits={"c": lambda reply: []}, **budget)
    assert loop.state.pending == (("c", 1, REPLY),)
    # Two have come and one may: three more would pass the limit.
    loop = play("abc", rounds=2, **budget)
    assert "budget round.max-up-bytes" in loop.why
    # An answer without an update ends what an older job may bring, too.
    failed = {"c": lambda reply: [Reply(reply.job, "c", error="no")]}
    loop = play("abc", rounds=2, edits=failed, **budget | {"max_up_bytes": 9 * REPLY})
    assert loop.state.pending == ()


def test_a_plan_that_sends_positions_may_keep_the_rest(play):
    """Of what is not sent, the device keeps what it was built with."""
    plan = ClientPlan(down=Positions(np.array([3, 5])), fill="initial")
    method = Method(lambda inputs, state: (one_group(plan, inputs.cohort), state), "", "")
    loop = play("ab", rounds=2, method=method)
    assert [row["dropped"] for row in loop.rows[1:]] == [{}, {}]
    held = loop.transport.device.model.copies[-1]
    assert held.tolist() == np.where(np.isin(np.arange(P), [3, 5]), held, -PARAMS).tolist()


def test_a_budget_of_seconds_is_never_exceeded(play):
    began = time.monotonic()
    loop = play("ab", rounds=1000, max_seconds=0.8, slow_s=0.05, evaluate=None)
    assert time.monotonic() - began < 0.8 + 0.2  # the last checkpoint and its fsync come after
    assert 2 <= loop.state.round < 20
    assert "budget round.max-seconds" in loop.why


def test_a_hanging_client_cannot_exceed_the_seconds(play):
    began = time.monotonic()
    loop = play("ab", rounds=9, max_seconds=0.6, edits={"a": lambda r: []}, evaluate=None)
    assert time.monotonic() - began < 0.6 + 0.2
    assert loop.state.round == 1


# 8 Mbps are a byte in a microsecond: a round of dense payloads lasts 144 + 144 of them.
SLOW = Network(NetworkSettings(down_mbps=8, up_mbps=8), 0)
ROUND_S = 2 * REPLY / 1e6


def test_a_round_has_the_simulated_seconds_of_its_measured_bytes(play):
    loop = play("abc", rounds=3, network=SLOW)
    expected = [ROUND_S, 2 * ROUND_S, 3 * ROUND_S]
    assert [r["simulated-s"] for r in loop.rows[1:]] == pytest.approx(expected, rel=1e-12)
    assert loop.state.spent.simulated_s == loop.rows[-1]["simulated-s"]


def test_without_a_clock_no_record_has_simulated_seconds(play):
    assert not any("simulated-s" in row for row in play("abc", rounds=2).rows)


def test_replies_that_are_dropped_take_their_time_and_those_that_never_come_do_not(play):
    links = {"b": 1.0, "c": 0.5}  # Mbps up
    network = Network(NetworkSettings(down_mbps=8, up_mbps=8), 0)
    network.own.update({c: {"up_mbps": mbps} for c, mbps in links.items()})
    dropped = {"b": nan_inside}
    # b's reply came over 1 Mbps and was dropped; c, which is slower, sent nothing.
    edits = dropped | {"c": lambda r: [Reply(r.job, "c", error="no")]}
    loop = play("abc", network=network, edits=edits)
    assert loop.rows[1]["simulated-s"] == pytest.approx((1 + 8) * REPLY / 1e6)


def test_an_oversized_reply_makes_a_round_no_longer_than_its_bound(play):
    big = {"b": lambda r: patched(r, vectors={"params": np.zeros(10**6, np.uint8)})}
    loop = play("ab", rounds=3, network=SLOW, edits=big, max_simulated_s=2.5 * ROUND_S)
    assert loop.state.round == 2
    assert loop.state.spent.simulated_s <= 2.5 * ROUND_S


@pytest.mark.parametrize(("budget", "rounds"), [(3.001, 3), (2.999, 2), (0.999, 0)])
def test_a_budget_of_simulated_seconds_is_used_up_but_never_exceeded(play, budget, rounds):
    limit = budget * ROUND_S
    loop = play("abc", rounds=5, evaluate_every=0, network=SLOW, max_simulated_s=limit)
    assert loop.state.round == rounds
    assert loop.state.spent.simulated_s <= limit
    assert "budget round.max-simulated-s" in loop.why
    assert len(loop.transport.submitted) == rounds


def test_a_budget_of_simulated_seconds_holds_for_sparse_uploads(play):
    # What counts is the bound of an upload, 64 + 23 bytes beside as many at most down.
    most_s, limit = 2 * (64 + 23) / 1e6, 20 * (64 + 23) / 1e6
    loop = play("ab", rounds=50, method="floss", network=SLOW, max_simulated_s=limit,
                strategy={"d_up": 0.25, "d_down": 0.25})  # fmt: skip
    assert limit - most_s < loop.state.spent.simulated_s <= limit


# |values| sum to 210, 200, 190, 181 and 172: the smallest ones pass zero.
@pytest.mark.parametrize(
    ("target", "metric", "rounds"),
    [
        (181.0, "loss", 3),
        (180.0, "loss", 4),
        (1 / 191, "", 2),
        (1 / 191, "accuracy", 2),
        (0.9, "", 6),
    ],
)
def test_stop_early_on_a_target(play, target, metric, rounds):
    loop = play("abc", rounds=6, evaluate_every=1, target=target, target_metric=metric)
    assert loop.state.round == rounds
    assert ("reached" in loop.why) == (rounds < 6)
    assert len(loop.transport.submitted) == rounds


def test_a_target_reached_before_round_1_trains_nobody(play):
    loop = play("abc", rounds=6, target=500.0, target_metric="loss")
    assert loop.state.round == 0
    assert loop.transport.submitted == []


@pytest.mark.parametrize(
    ("every", "rounds", "evaluated"),
    [(2, 5, [0, 2, 4, 5]), (1, 3, [0, 1, 2, 3]), (0, 3, [0, 3]), (9, 4, [0, 4]), (2, 4, [0, 2, 4])],
)
def test_when_the_server_evaluates(play, every, rounds, evaluated):
    loop = play("abc", rounds=rounds, evaluate_every=every)
    assert [r["round"] for r in loop.rows if r.get("evaluation")] == evaluated
    assert len(loop.rows) == rounds + 1


def test_evaluated_is_what_devices_would_receive_next(play):
    seen = []

    def evaluate(values):
        seen.append(values.copy())
        return {"accuracy": 0.5}

    loop = play("abc", method="floss", strategy={"d_down": 0.25, "d_up": 1.0}, evaluate=evaluate)
    assert seen[0].tolist() == [0] * 15 + [16, 17, 18, 19, 20]
    assert seen[1].tolist() == [0] * 15 + [15.5, 16.5, 17.5, 18.5, 19.5]
    assert seen[1].tolist() == loop.served().values.tolist()


def test_without_test_data_there_is_no_evaluation(play):
    loop = play("abc", rounds=2, evaluate=None)
    assert all(not r.get("evaluation") for r in loop.rows)
    assert loop.rows[0]["headline"] == ""


ORDERS = {
    "as asked": list,
    "reversed": lambda replies: replies[::-1],
    "shuffled": lambda replies: [replies[i] for i in np.random.permutation(len(replies))],
}


@pytest.mark.parametrize("mean", ["dense", "floss"])
def test_the_order_of_replies_changes_no_byte(play, mean):
    written = {}
    for name, order in ORDERS.items():
        loop = play(
            "abcdefghijk", name, {k: v for k, v in EDITS.items() if k != "d"}, order,
            rounds=4, method=mean, server={"optimizer": "adam", "lr": 0.1},
            network=Network(NetworkSettings(preset="thesis", spread=1), 0),
            wire=WireSettings(up_values="int8", block=16),
            device={"bend": 0.3, "wire": WireSettings(up_values="int8", block=16)},
        )  # fmt: skip
        files = [(loop.recorder.folder / f"{n}.jsonl").read_bytes() for n in ("metrics", "ledger")]
        written[name] = (*files, loop.optimizer.params.tobytes())
    assert written["as asked"] == written["reversed"] == written["shuffled"]
    assert json.loads(written["as asked"][0].splitlines()[1])["clients"] >= 3


def test_clients_without_examples_are_never_asked(tmp_path):
    device = toy_device({c: SLOPES[c] for c in "abcd"}, tmp_path / "kept")
    transport = Scripted(device, {"a": 3, "b": 0, "c": 1, "d": 0})
    toy_loop(tmp_path / "run", transport, rounds=20, clients=3).play()
    asked = {j.client for requests in transport.submitted for r in requests for j in r.jobs}
    assert asked == {"a", "c"}


def test_nobody_has_examples(tmp_path):
    transport = Scripted(toy_device({}, tmp_path), {"a": 0})
    with pytest.raises(FedllmError, match="no client has any examples"):
        toy_loop(tmp_path / "run", transport).play()


def test_a_mask_that_leaves_tensors_out_is_told_once(play, caplog):
    # The largest five of 1 to 20 lie in the last two tensors: the adapter is never trained.
    mask = {"method": "sparse-adapter", "strategy": {"density": 0.25}, "evaluate": None}
    play("abc", rounds=4, **mask)
    told = [r.message for r in caplog.records if "trains nothing" in r.message]
    assert len(told) == 1
    assert told[0].startswith("round 2 trains nothing of 3 of 5 tensors, e.g. q.lora_A.weight")
    caplog.clear()
    play("abc", rounds=4, name="wide", **(mask | {"strategy": {"density": 1.0}}))
    assert "trains nothing" not in caplog.text


@pytest.mark.parametrize(
    ("where", "per", "message"),
    [
        ("down", "client", "drawn per client, and is used where no client is known"),
        ("step", "client", "drawn per client, and is used where no client is known"),
        ("step", "group", "drawn per group, and is used where no group is known"),
    ],
)
def test_a_support_that_would_name_several_sets_is_refused_before_anybody_is_asked(
    play, where, per, message
):
    mine = Derived("random-tensors", {"share": 0.5}, (per,))

    def plan(inputs, state):
        down, step = (mine if where == place else All() for place in ("down", "step"))
        client = ClientPlan(down=down, train=mine, up=mine)
        return one_group(client, inputs.cohort, step=step), state

    with pytest.raises(ConfigError, match=message):
        play("abc", method=Method(plan, "", ""))


def test_one_derived_support_is_one_set_wherever_it_is_used(play):
    mine = Derived("random-tensors", {"share": 0.5})

    def plan(inputs, state):
        client = ClientPlan(down=mine, train=mine, up=mine)
        return one_group(client, inputs.cohort, step=mine), state

    loop = play("abc", rounds=1, method=Method(plan, "", ""), server={"lr": 1.0})
    chosen = expand(mine, LAYOUT, Draw(0, 1)).positions().tolist()
    assert np.flatnonzero(loop.optimizer.params != PARAMS).tolist() == chosen


@pytest.mark.parametrize("name", ["partial", "partial-floss"])
def test_a_variable_moves_by_the_mean_over_those_that_trained_it(play, name):
    """By hand: SGD of rate 1/4 on the mean slope of the clients whose part holds the tensor."""
    share = {"train_share": 0.5, "d_up": 1.0, "mean": "senders"}
    loop = play("abc", rounds=1, method=name, strategy=share)
    mine = Derived("random-tensors", {"share": 0.5}, ("round", "client"))
    slope, trained = np.zeros(P), np.zeros(P)
    for number, client in enumerate("abc", start=1):
        chosen = expand(mine, LAYOUT, Draw(0, 1, "all", client)).positions()
        slope[chosen] += number
        trained[chosen] += 1
    assert len(set(trained)) > 1
    expected = PARAMS - 0.25 * slope / np.maximum(trained, 1)
    assert loop.optimizer.params == pytest.approx(expected)
    # Values and a header for each client, and nothing for positions.
    assert loop.rows[1]["up-bytes"] == 4 * trained.sum() + 3 * 64


def test_no_client_moves_the_clock_beyond_what_a_job_can_take(play):
    def boasts(reply):
        return patched(reply, metrics=replace(reply.metrics, steps=2**47))

    loop = play("ab", rounds=1, edits={"b": boasts}, most_steps=lambda examples: 3)
    assert loop.state.clock == 3


def test_a_run_that_is_cut_short_is_evaluated_where_it_ends(play, tmp_path):
    play("ab", rounds=3, evaluate_every=0, checkpoint_every=1)
    # Round 3 was evaluated as the last; a run of 5 that is then cut to 4 ends in round 4.
    for unwanted in sorted((tmp_path / "run" / "checkpoints").iterdir())[-1:]:
        unwanted.unlink()
    loop = play("ab", rounds=2, evaluate_every=1)
    assert loop.state.round == loop.state.evaluated == 2
    assert loop.rows[-1] == {"round": 2, "evaluation": dict(loop.state.evaluation)}
