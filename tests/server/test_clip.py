"""What one reply can do is bounded, and the bound is the same in any order and after a resume."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from toys import BASE, LAYOUT, PARAMS, P, Scripted, bits, toy_device, toy_loop

from fedllm_app.core.job import Reply
from fedllm_app.core.state import RunState
from fedllm_app.report.page import summary_rows, write_report
from fedllm_app.run.metrics import read_lines
from fedllm_app.server.clip import ENOUGH, OFF, WINDOW, Bound, Clip
from fedllm_app.wire.codec import encode
from fedllm_app.wire.slices import Origin

SLOPES = {c: np.full(P, s, np.float32) for c, s in zip("abcdef", (1, 1.5, 2, 1, 3, 2), strict=True)}


def scaled(factor, only=None):
    """Return an edit that multiplies a client's update, in one round or in all."""

    def edit(reply):
        if only not in (None, reply.job):
            return [reply]
        values = reply.vectors["params"][64:].view("<f4") * np.float32(factor)
        origin = Origin(P, LAYOUT.hash, BASE)
        payload = encode(values, None, origin, value_type="fp32", block=256)
        return [replace(reply, vectors={"params": payload})]

    return edit


@pytest.fixture
def play(tmp_path):
    numbers = itertools.count()

    def build(rounds=3, folder=None, edits=None, order=list, die_in=0, **how):
        folder = folder or tmp_path / str(next(numbers))
        counts = dict.fromkeys(SLOPES, 1)
        device = toy_device(SLOPES, tmp_path / "kept")
        transport = Scripted(device, counts, edits or {}, order, die_in)
        # Adam, whose second moment never forgets what one reply was.
        how = {"server": {"optimizer": "adam", "lr": 0.05}, "clients": 6} | how
        return toy_loop(folder, transport, rounds=rounds, evaluate=None, **how)

    return build


def ended(loop):
    loop.play()
    return loop


def moved(loop):
    return float(np.abs(loop.optimizer.params - PARAMS).mean())


def records(loop):
    return [r for r in read_lines(loop.recorder.folder / "metrics.jsonl") if "clients" in r]


@pytest.mark.parametrize("round_", [1, 2])
def test_one_huge_reply_does_not_stop_a_run(play, said, round_):
    edits = {"e": scaled(1e4, round_)}
    clean, off, on = (
        moved(ended(play(12, edits=e, clip=clip)))
        for e, clip in (({}, "auto"), (edits, "off"), (edits, "auto"))
    )
    # Without a bound Adam takes small steps for the rest of the run.
    assert off < 0.5 * clean
    assert on > 0.9 * clean
    assert f"round {round_}, scaled down by round.clip: client e" in said.text


@pytest.mark.parametrize("clip", ["auto", "100", "0"])
def test_where_nothing_is_above_the_bound_nothing_changes(play, clip):
    found = {bits(ended(play(clip=c)).optimizer.params) for c in (clip, "off")}
    assert len(found) == 1


@pytest.mark.parametrize("action", ["clip", "drop"])
def test_the_order_of_replies_changes_nothing(play, action):
    edits = {"e": scaled(1e4), "b": scaled(9.0, 2)}
    loops = [
        ended(play(edits=edits, clip_action=action, order=order))
        for order in (list, lambda r: r[::-1], lambda r: r[3:] + r[:3])
    ]
    assert len({bits(loop.optimizer.params) for loop in loops}) == 1
    assert len({str(records(loop)) for loop in loops}) == 1
    assert len({str(loop.state.norms) for loop in loops}) == 1


@pytest.mark.parametrize("die_in", [1, 2, 4, 6])
def test_a_killed_run_ends_with_the_same_bits(play, tmp_path, die_in):
    how = {"edits": {"e": scaled(1e4), "b": scaled(9.0, 2)}, "rounds": 6, "checkpoint_every": 2}
    whole = ended(play(**how))
    with pytest.raises(KeyboardInterrupt):
        play(folder=tmp_path / "killed", die_in=die_in, **how).play()
    again = ended(play(folder=tmp_path / "killed", **how))
    assert bits(again.optimizer.params) == bits(whole.optimizer.params)
    assert again.state.norms == whole.state.norms
    assert records(again) == records(whole)


def test_what_is_dropped_is_counted_and_named_and_its_bytes_are_not_accepted(play, said):
    loop = ended(play(edits={"e": scaled(1e4)}, clip_action="drop"))
    assert [r["dropped"] for r in records(loop)] == [{"too-large": 1}] * 3
    assert [r["clients"] for r in records(loop)] == [5] * 3
    assert "client e, round 3: dropped (too-large): the norm of its update is" in said.text
    assert records(loop)[0]["failed-clients"] == [["e", "too-large"]]
    assert "e" not in loop.state.accepted


def test_a_fixed_norm_is_a_bound_from_the_first_reply_on(play):
    loop = ended(play(rounds=1, clip=2.0, server={"optimizer": "sgd", "lr": 1.0}))
    # Slopes of all 20 coordinates with norms of 4.5 and more: each becomes a norm of 2.
    assert np.allclose(PARAMS - loop.optimizer.params, 2 / np.sqrt(P))
    assert records(loop)[0]["clipped"] == 6
    assert records(loop)[0]["clip-bound"] == 2.0


def test_who_fails_again_and_again_is_named_at_the_end(play, tmp_path):
    def broken(words, *rounds):
        def edit(reply):
            failed = Reply(reply.job, reply.client, error=f"{words} {reply.job}")
            return [failed if reply.job in rounds else reply]

        return edit

    edits = {"a": broken("no room", 1, 2, 4), "b": broken("once", 3), "e": scaled(1e4)}
    folder, how = tmp_path / "run", {"edits": edits, "rounds": 4, "checkpoint_every": 2}
    with pytest.raises(KeyboardInterrupt):
        play(folder=folder, die_in=4, **how).play()
    ended(play(folder=folder, **how))
    rows = summary_rows(folder)
    assert ("fails again and again", "client a: 3 times error: no room 4") in rows
    assert ("scaled down", "4 by round.clip, of clients e (4)") in rows
    assert not [value for _, value in rows if "once" in value]
    page = write_report(folder).read_text()
    assert "client a: 3 times error: no room 4" in page
    assert "Updates scaled down by round.clip" in page
    assert "e (4)" in page


def norms_after(bound, rounds):
    norms = {}
    for replies in rounds:
        clip = Clip(bound, norms)
        waiting = [({"params": n}, True) for n in replies] if clip.waits(["params"]) else []
        clip.close(waiting)
        for client, norm in enumerate(replies):
            clip.scales((1, f"{client:03d}"), {"params": norm})
        norms = clip.norms()
    return norms


def limit(norms, bound=None):
    clip = Clip(bound or Bound(), norms)
    return clip.limit("params")


def test_who_is_clipped_each_round_does_not_raise_the_bound():
    honest = [[1.0, 1.1, 0.9, 1.0, 1.2, 0.8, 1.0]] * 60
    attacked = [[*replies, 1e6, 1e5, 1e4] for replies in honest]
    assert limit(norms_after(Bound(), attacked)) <= 1.2 * limit(norms_after(Bound(), honest))


def test_the_bound_follows_updates_that_all_grow():
    rounds = [[10.0**exponent] * 5 for exponent in range(-3, 3) for _ in range(60)]
    assert limit(norms_after(Bound(), rounds)) == pytest.approx(400)


def test_updates_of_zero_bound_nothing():
    norms = norms_after(Bound(), [[0.0] * 8, [0.0] * 8])
    clip = Clip(Bound(), norms)
    assert clip.waits(["params"])
    clip.close([({"params": 0.0}, True)] * 3)
    assert clip.scales((1, "a"), {"params": 3.0}) == {"params": 1.0}


def test_norms_are_kept_of_the_latest_rounds_alone():
    norms = norms_after(Bound(), [[1.0] * 30] * 50)
    assert sum(map(len, norms["params"])) == -(-WINDOW // 30) * 30
    assert norms_after(Bound(OFF), [[1.0] * 30]) == {}


def test_few_norms_wait_for_each_other():
    assert Clip(Bound()).waits(["params"])
    assert not Clip(Bound(), {"params": ((1.0,) * ENOUGH,)}).waits(["params"])
    assert Clip(Bound(), {"params": ((1.0,) * ENOUGH,)}).waits(["params", "variate"])
    assert not Clip(Bound(3.0)).waits(["params"])


def test_a_state_of_an_earlier_version_has_no_norms():
    words = RunState().to_json()
    del words["norms"]
    assert RunState.from_json(words, {}, {}).norms == {}
