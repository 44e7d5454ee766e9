"""Late and uneven devices: who is late is decided by simulated time, to the same bits every time.

Clients take one local step of 1 to 20 simulated seconds; links take none, unless a test says so.
"""

import random
import time
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from toys import PARAMS, P, Scripted, toy_device, toy_loop

from fedllm_app.client.answer import answer
from fedllm_app.core.plan import ClientPlan, TopK
from fedllm_app.core.support import Positions
from fedllm_app.devices.compute import ComputeSettings
from fedllm_app.devices.fleet import DeviceSettings, Fleet
from fedllm_app.devices.network import NetworkSettings, network_of
from fedllm_app.run.checkpoint import latest_checkpoint, load_state
from fedllm_app.run.metrics import read_lines
from fedllm_app.server.methods.base import Method, one_group
from fedllm_app.wire.select import top_positions

RNG = np.random.default_rng(5)
SLOPES = {c: RNG.normal(size=P).astype(np.float32) for c in "abcdefgh"}
SECONDS = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": 5.0, "f": 7.0, "g": 11.0, "h": 20.0}


@dataclass
class Workers(Scripted):
    """Replies come in an order of the workers' own, and a kill comes after so many of them.

    Attributes
    ----------
    shuffle : seed of the order.
    die_after : replies after which the server is killed, 0 for never.
    trained : jobs that were done.
    """

    shuffle: int = 0
    die_after: int = 0
    trained: list[tuple[int, str]] = field(default_factory=list)

    def __post_init__(self):
        self._rng, self._told = random.Random(self.shuffle), 0

    def submit(self, requests, timeout_s):
        self.submitted.append(list(requests))
        for request in requests:
            self.trained += [(job.id, job.client) for job in request.jobs]
            for reply in answer(self.device, request):
                reply = replace(reply, metrics=replace(reply.metrics, train_s=0.0))
                self._coming += self.edits.get(reply.client, lambda r: [r])(reply)
        self._rng.shuffle(self._coming)

    def poll(self):
        if self.die_after and self._told >= self.die_after:
            raise KeyboardInterrupt
        self._told += bool(self._coming)
        return [self._coming.pop()] if self._coming else super().poll()


def speeds(folder, **network):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{c},{s}" for c, s in SECONDS.items()]
    (folder / "speeds.csv").write_text("\n".join(["client,step-s", *lines]))
    compute = ComputeSettings(step_s=1.0, file=str(folder / "speeds.csv"))
    return network_of(NetworkSettings(**network), 0, compute)


def phones():
    """Return a clock of phones, of which a step takes 10 s and some 42 J, and a few computers."""
    fleet = Fleet(DeviceSettings(fleet="phone=0.8,pc=0.2"), 0)
    return network_of(NetworkSettings(), 0, ComputeSettings(), fleet, lambda: 3.2e10)


def loop_over(folder, *, edits=None, shuffle=0, die_after=0, device=None, clock=True, network=None,
              only="abcdefgh", devices=False, **how):  # fmt: skip
    made = toy_device(SLOPES, folder / "kept", bend=0.3, **(device or {}))
    counts = dict.fromkeys(only, 2)
    transport = Workers(made, counts, edits or {}, shuffle=shuffle, die_after=die_after)
    how = {"checkpoint_every": 2, "evaluate_every": 3, "server": {"lr": 0.5}} | how
    return toy_loop(
        folder, transport, most_steps=lambda examples: 1,
        network=phones() if devices else speeds(folder, **(network or {})) if clock else None,
        **how,
    )  # fmt: skip


ASYNC = {"pacing": "async", "concurrency": 5, "goal": 2, "rounds": 12}
DEADLINE = {"pacing": "deadline", "clients": 3, "over_select": 1.6, "rounds": 8}
SYNC = {"pacing": "sync", "clients": 3, "rounds": 60}


def rows(folder):
    return read_lines(folder / "metrics.jsonl")[1:]


def state_of(folder):
    """Return all that the promise of equal bits covers."""
    state, tensors = load_state(latest_checkpoint(folder / "checkpoints"))
    files = [(folder / f"{name}.jsonl").read_bytes() for name in ("metrics", "ledger")]
    known = state.to_json() | {"spent": state.spent.simulated_s}
    arrays = {k: torch.from_numpy(v) for k, v in (state.method | state.open_vectors()).items()}
    return *files, {k: t.numpy().tobytes() for k, t in (tensors | arrays).items()}, known


# --- deadline


def test_a_round_closes_at_the_first_replies_by_simulated_time(tmp_path):
    loop = loop_over(tmp_path, **DEADLINE | {"clients": 3, "over_select": 2.0, "rounds": 1})
    loop.play()
    (row,) = rows(tmp_path)
    asked = {job.client for job in first_jobs(loop)} | {c for c, _ in row["failed-clients"]}
    fastest = sorted(asked, key=SECONDS.get)
    assert len(asked) == 6
    assert set(loop.state.accepted) == set(fastest[:3])
    assert row["clients"] == 3 and row["dropped"] == {"late": 3}
    assert row["failed-clients"] == [[c, "late"] for c in sorted(fastest[3:])]
    assert row["simulated-s"] == SECONDS[fastest[2]]
    # Who certainly comes late is not trained: no link can make up for their steps.
    assert {client for _, client in loop.transport.trained} == set(fastest[:3])


def first_jobs(loop):
    return [job for request in loop.transport.submitted[0] for job in request.jobs]


def test_at_the_deadline_a_round_closes_with_those_that_are_there(tmp_path):
    how = {"clients": 8, "over_select": 1.0, "rounds": 2, "deadline_s": 4.5}
    loop = loop_over(tmp_path, **DEADLINE | how)
    loop.play()
    assert set(loop.state.accepted) == set("abcd")
    assert [r["simulated-s"] for r in rows(tmp_path)] == [4.5, 9.0]
    assert [r["dropped"] for r in rows(tmp_path)] == [{"late": 4}] * 2
    assert {client for _, client in loop.transport.trained} == set("abcd")


def test_where_one_fails_a_slower_one_takes_its_place(tmp_path):
    failing = {"a": lambda r: [replace(r, vectors={}, error="no")]}
    how = {"clients": 3, "over_select": 8 / 3, "rounds": 1}
    loop = loop_over(tmp_path, edits=failing, **DEADLINE | how)
    loop.play()
    (row,) = rows(tmp_path)
    assert set(loop.state.accepted) == set("bcd")
    assert row["dropped"] == {"error": 1, "late": 4}
    assert row["simulated-s"] == SECONDS["d"]


def test_links_join_the_time_of_a_participant(tmp_path):
    # 144 bytes each way at 144 bytes a second: 2 s more for everybody.
    mbps = 144 * 8 / 1e6
    how = {"clients": 3, "over_select": 8 / 3, "rounds": 1}
    loop_over(tmp_path, network={"down_mbps": mbps, "up_mbps": mbps}, **DEADLINE | how).play()
    assert rows(tmp_path)[0]["simulated-s"] == pytest.approx(5.0)


# --- async


def test_async_by_hand(tmp_path):
    # Two of three clients at work, of 1, 2 and 3 seconds; every reply is a step.
    slopes = {c: np.full(P, s, np.float32) for c, s in zip("abc", (1, 2, 6), strict=True)}
    device = toy_device(slopes, tmp_path / "kept")
    loop = toy_loop(
        tmp_path, Workers(device, dict.fromkeys("abc", 1)), pacing="async", concurrency=3, goal=1,
        most_steps=lambda examples: 1, network=speeds(tmp_path), server={"lr": 1.0}, rounds=4,
        evaluate=None, clip="off",
    )  # fmt: skip
    loop.play()
    found = rows(tmp_path)
    # a is done at 1, 2 and 3 s, b at 2 s and c at 3 s, each at once given another job.
    assert [r["simulated-s"] for r in found] == [1, 2, 2, 3]
    assert [r["staleness-most"] for r in found] == [0, 0, 2, 1]
    # At 2 s a is before b by its name. b's step counts 37/64; a's last, one step old, 45/64.
    assert np.allclose(PARAMS - loop.optimizer.params, 1 + 1 + 2 * 37 / 64 + 45 / 64)


def test_the_order_of_the_workers_changes_no_bit(tmp_path):
    for pacing, how in (("async", ASYNC), ("deadline", DEADLINE)):
        folders = [tmp_path / f"{pacing}-{shuffle}" for shuffle in range(3)]
        for shuffle, folder in enumerate(folders):
            loop_over(folder, shuffle=shuffle, **how).play()
        first, *others = (state_of(folder) for folder in folders)
        assert all(other == first for other in others)
        clock = [r["simulated-s"] for r in rows(folders[0])]
        assert clock == sorted(clock) and clock[0] > 0


def masked(inputs, state):
    """Send the largest half down and its own largest quarter up: a plan with explicit positions."""
    mask = Positions(top_positions(inputs.params, 0.5))
    return one_group(ClientPlan(down=mask, train=mask, up=TopK(0.25, mask)), inputs.cohort), state


MASKED = Method(masked, "", "")
KEPT = {"keep_optimizer": True, "momentum": 0.9, "lr": 0.1}


@pytest.mark.parametrize(
    ("how", "device", "kills"),
    [
        (ASYNC, {}, (3, 8, 6, 9, 10, 7)),
        (ASYNC, KEPT, (3, 8, 6, 9, 10, 7)),
        (ASYNC | {"method": MASKED}, {}, (8, 9, 7)),
        (DEADLINE, KEPT, (2, 5, 7, 8)),
    ],
    ids=["async", "async-kept", "async-masked", "deadline-kept"],
)  # fmt: skip
def test_killed_anywhere_and_resumed_equals_never_killed(tmp_path, said, how, device, kills):
    loop_over(tmp_path / "whole", device=device, **how).play()
    reached = []
    for n in kills:  # replies until it is killed: between checkpoints and at them
        with pytest.raises(KeyboardInterrupt):
            loop_over(tmp_path / "killed", device=device, shuffle=n, die_after=n, **how).play()
        reached.append(len(rows(tmp_path / "killed")))
    assert 0 < reached[-1] < how["rounds"] and len({*reached}) > 2
    resumed = loop_over(tmp_path / "killed", device=device, **how)
    resumed.play()
    assert "starts fresh" not in said.text
    assert state_of(tmp_path / "killed") == state_of(tmp_path / "whole")


def test_a_longer_async_run_equals_one_that_was_long_from_the_start(tmp_path):
    loop_over(tmp_path / "whole", **ASYNC).play()
    loop_over(tmp_path / "grown", **ASYNC | {"rounds": 6}).play()
    # Among its open jobs are some of several versions of the model; each version is kept once.
    state, _ = load_state(latest_checkpoint(tmp_path / "grown" / "checkpoints"))
    versions = [one.request.round for one in state.open]
    assert len(versions) == len({*versions}) > 1
    assert sum(len(one.request.jobs) for one in state.open) == ASYNC["concurrency"] - 1
    assert len(state.open_vectors()) == len(versions)
    loop_over(tmp_path / "grown", **ASYNC).play()
    assert state_of(tmp_path / "grown") == state_of(tmp_path / "whole")


def test_one_client_has_one_job_at_a_time_and_goes_on_from_its_last(tmp_path):
    # Both clients are always at work, so that a often answers twice within a round.
    how = {"pacing": "async", "concurrency": 3, "goal": 3, "rounds": 6}
    loop = loop_over(tmp_path, only="abh", **how)
    loop.play()
    given = [job for requests in loop.transport.submitted for r in requests for job in r.jobs]
    assert sorted(job.id for job in given) == list(range(1, len(given) + 1))
    of_a = [job for job in given if job.client == "a"]
    assert [job.state_from for job in of_a] == [-1, *(job.id for job in of_a[:-1])]
    assert [job.position for job in of_a] == list(range(0, P * len(of_a), P))
    up = [r for r in read_lines(tmp_path / "ledger.jsonl") if r["direction"] == "up"]
    assert max(sum(r["client"] == "a" and r["round"] == t for r in up) for t in range(7)) > 1
    assert {r["clients"] for r in rows(tmp_path)} == {3}


def test_a_job_that_goes_on_from_a_reply_that_was_not_used_is_dropped(tmp_path):
    # b answers at 2 s and would again at 4 s; c fails at 3 s, and the budget ends at 3.5 s.
    fails = {"c": lambda r: [replace(r, vectors={}, error="no")]}
    how = {"pacing": "async", "concurrency": 3, "goal": 2, "min_replies": 2, "rounds": 3}
    loop = loop_over(tmp_path, only="bch", edits=fails, max_simulated_s=3.5, **how)
    assert "budget round.max-simulated-s" in loop.play()
    row = rows(tmp_path)[0]
    assert row["clients"] == 1 and row["update-norm"] is None
    assert row["dropped"] == {"error": 1, "late": 1} and row["simulated-s"] == 3.5
    assert loop.state.progress == {} and loop.state.accepted == {}
    assert [client for _, client in loop.waiting] == ["h"]


def test_a_reply_that_is_too_stale_is_dropped_and_counted(tmp_path):
    loop = loop_over(tmp_path, **ASYNC | {"goal": 1, "most_stale": 2})
    loop.play()
    assert max(r["staleness-most"] for r in rows(tmp_path)) == 2
    stale = sum(r["dropped"].get("stale", 0) for r in rows(tmp_path))
    assert stale == loop.state.dropped["stale"] > 0
    rejected = [r for r in read_lines(tmp_path / "ledger.jsonl") if not r.get("accepted", True)]
    assert len(rejected) == stale  # it has travelled


def test_a_reply_that_has_come_waits_for_its_turn_beyond_the_time_out(tmp_path):
    def slow(values_P):
        time.sleep(0.06)
        return {"loss": 1.0}

    # The reply to the first job of h, of 20 s, lies there for many rounds.
    loop = loop_over(tmp_path, timeout_s=0.3, evaluate=slow, **ASYNC | {"evaluate_every": 1})
    loop.play()
    assert loop.state.dropped == {}
    assert loop.state.accepted["h"] > 0


def test_what_is_in_vain_is_said_at_the_end(tmp_path, said):
    loop_over(tmp_path, **DEADLINE).play()
    assert f"not counted: {8 * 2} late" in said.text
    loop_over(tmp_path / "async", **ASYNC).play()
    assert f"not counted: {ASYNC['concurrency'] - 1} open at the end" in said.text


@pytest.mark.parametrize("how", [ASYNC, DEADLINE], ids=["async", "deadline"])
@pytest.mark.parametrize("budget", ["max_up_bytes", "max_down_bytes", "max_simulated_s"])
def test_no_budget_is_exceeded(tmp_path, how, budget):
    payload = 64 + 4 * P
    limit = {"max_simulated_s": 17.0}.get(budget, 20 * payload + 70)
    loop = loop_over(tmp_path, **how, **{budget: limit})
    why = loop.play()
    assert f"budget round.{budget.replace('_', '-')}" in why
    totals, state = loop.recorder.ledger.totals, loop.state
    spent = {"max_up_bytes": totals.up_bytes, "max_down_bytes": totals.down_bytes}
    assert 0.5 * limit < spent.get(budget, state.spent.simulated_s) <= limit
    assert state.round > 1


@pytest.mark.parametrize(
    "how",
    [ASYNC, ASYNC | {"concurrency": 3, "goal": 30}, DEADLINE, SYNC],
    ids=["async", "async-long", "deadline", "sync"],
)
@pytest.mark.parametrize("failing", [False, True], ids=["fine", "failing"])
def test_no_joules_are_spent_beyond_the_budget(tmp_path, how, failing):
    edits = {"b": lambda r: [replace(r, vectors={}, error="no")]} if failing else {}
    how = how | {"rounds": 60, "evaluate_every": 0, "max_energy_j": 800.0}
    loop = loop_over(tmp_path, edits=edits, devices=True, **how)
    assert "budget round.max-energy-j" in loop.play()
    assert 400 < loop.state.spent.energy_j <= 800


HOSTILE = {
    "b": lambda r: [replace(r, vectors={"params": np.full(200, 9, np.uint8)})],
    "c": lambda r: [replace(r, client="nobody"), r, r],
    "d": lambda r: [replace(r, vectors={}, error="CUDA went away")],
    "e": lambda r: [],
}


@pytest.mark.parametrize("how", [ASYNC, DEADLINE], ids=["async", "deadline"])
@pytest.mark.parametrize("clock", [True, False], ids=["clock", "wall"])
def test_bad_replies_are_dropped_and_free_their_place(tmp_path, how, clock):
    how = how | {"rounds": 6, "timeout_s": 0.2, "clip": "off"}
    loop = loop_over(tmp_path, edits=HOSTILE, clock=clock, **how)
    assert loop.play() == "all 6 rounds"
    assert {"malformed", "error"} <= loop.state.dropped.keys()
    assert set(loop.state.accepted) <= set("acfgh") and loop.state.steps >= 4


@pytest.mark.parametrize("clock", [True, False], ids=["clock", "wall"])
@pytest.mark.parametrize("lost", [[], "error"], ids=["silent", "failing"])
def test_a_run_in_which_nobody_replies_ends_as_failed(tmp_path, clock, lost):
    def edit(reply):
        return [replace(reply, vectors={}, error="no")] if lost else []

    how = ASYNC | {"timeout_s": 0.05}
    loop = loop_over(tmp_path, edits=dict.fromkeys(SLOPES, edit), clock=clock, **how)
    assert loop.play().startswith("given up: rounds 1 to 3 took no step")
    # Nobody is asked twice in a round that cannot come to anything.
    assert len(loop.transport.trained) <= 3 * len(SLOPES)


# --- the wall-clock


class InTurn(Workers):
    """Replies come one by one, to earlier jobs first, and the slowest client's last."""

    def submit(self, requests, timeout_s):
        super().submit(requests, timeout_s)
        self._coming.sort(key=lambda r: (r.job, SECONDS[r.client]), reverse=True)


def test_by_the_wall_clock_the_first_to_come_close_a_round(tmp_path):
    loop = loop_over(tmp_path, clock=False, **DEADLINE | {"over_select": 8 / 3, "rounds": 2})
    transport = InTurn(loop.transport.device, loop.transport.counts)
    loop.transport = loop.arrivals._transport = transport
    loop.play()
    assert set(loop.state.accepted) == set("abc")
    assert [r["dropped"] for r in rows(tmp_path)] == [{"late": 5}] * 2
    assert "simulated-s" not in rows(tmp_path)[0]
    # What was late in round 1 comes in round 2, has travelled, and is no longer owed.
    late = [r for r in read_lines(tmp_path / "ledger.jsonl") if not r.get("accepted", True)]
    assert {r["round"] for r in late} == {2}


@pytest.mark.parametrize(
    "how",
    [
        ASYNC | {"weights": "examples"},
        ASYNC | {"weights": "tokens"},
        ASYNC | {"clip_action": "drop", "clip_factor": 1.0},
        ASYNC | {"method": "floss", "strategy": {"mean": "senders"}},
        DEADLINE | {"aggregate": "median"},
        DEADLINE | {"weights": "examples", "clip": "0.5"},
    ],
    ids=lambda how: "-".join(str(v) for v in how.values() if isinstance(v, str)),
)
def test_what_weighs_bounds_and_combines_replies_goes_with_it(tmp_path, how):
    loop_over(tmp_path / "whole", **how).play()
    with pytest.raises(KeyboardInterrupt):
        loop_over(tmp_path / "killed", shuffle=3, die_after=9, **how).play()
    loop = loop_over(tmp_path / "killed", **how)
    loop.play()
    assert state_of(tmp_path / "killed") == state_of(tmp_path / "whole")
    norms = [r["update-norm"] for r in rows(tmp_path / "whole") if "update-norm" in r]
    assert len(norms) == how["rounds"] and all(norm and norm < 100 for norm in norms)


def test_a_sync_round_lasts_as_long_as_its_slowest_client(tmp_path):
    loop = loop_over(tmp_path, clients=3, rounds=3)
    loop.play()
    slowest = [
        max(SECONDS[j.client] for r in rs for j in r.jobs) for rs in loop.transport.submitted
    ]
    found = [r["simulated-s"] for r in rows(tmp_path)]
    assert found == np.cumsum(slowest).tolist()
    assert not any("staleness-most" in r for r in rows(tmp_path))


def test_by_the_wall_clock_a_resumed_run_asks_anew_for_what_was_open(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        loop_over(tmp_path, clock=False, die_after=9, **ASYNC).play()
    state, _ = load_state(latest_checkpoint(tmp_path / "checkpoints"))
    assert state.open == () and state.given > 0
    loop = loop_over(tmp_path, clock=False, **ASYNC)
    assert loop.play() == "all 12 rounds"
    assert min(id_ for id_, _ in loop.transport.trained) == state.given + 1
    assert [r["clients"] for r in rows(tmp_path)] == [2] * 12


def test_many_that_are_late_are_one_line(tmp_path, said):
    loop_over(tmp_path, **DEADLINE | {"clients": 1, "over_select": 8.0, "rounds": 1}).play()
    assert (
        "round 1 was closed before the replies of client b, client c, client d, client e, "
        in said.text
    )
    assert said.text.count(" and 2 more") == 1 and "dropped (late)" not in said.text


def test_batches_before_the_local_steps_take_simulated_time(tmp_path):
    # Client a has 2 examples, and a second for each of its batches: 1 local step, then 2 + 1.
    for before, seconds in ((0, 1), (2, 3)):
        folder = tmp_path / str(before)
        loop = loop_over(
            folder, only="a", clients=1, rounds=2, steps_before=lambda n, b=before: n * b // 2
        )
        loop.play()
        assert [r["simulated-s"] for r in rows(folder)] == [seconds, 2 * seconds]
        assert loop.state.clock == 2
