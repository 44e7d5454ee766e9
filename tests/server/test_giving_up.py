"""A run that cannot learn ends, and says so: no steps, or a loss that is no number."""

import math
from dataclasses import replace

import numpy as np
import pytest
from toys import P, Scripted, toy_device, toy_loop

from fedllm_app.run.metrics import read_lines

SLOPES = {c: np.full(P, 1, np.float32) for c in "abc"}


def loop_over(folder, edits, **how):
    transport = Scripted(toy_device(SLOPES, folder / "kept"), dict.fromkeys(SLOPES, 1), edits)
    return toy_loop(folder, transport, **{"clients": 3, "checkpoint_every": 2, "rounds": 9} | how)


def lost(rounds, error="no", reason="non-finite"):
    """Return an edit that loses the replies of some rounds."""

    def edit(reply):
        bad = replace(reply, vectors={}, error=error, reason=reason)
        return [bad if reply.job in rounds else reply]

    return edit


def test_rounds_in_a_row_without_a_step_end_the_run_with_their_reasons(tmp_path):
    edits = {c: lost(range(3, 99)) for c in "ab"} | {"c": lost(range(3, 99), reason="error")}
    loop = loop_over(tmp_path, edits)
    why = loop.play()
    assert why.startswith("given up: rounds 3 to 5 took no step")
    assert "Their replies: 6 non-finite, 3 error" in why
    assert loop.limits.failed(loop.state) == why == loop.state.finished
    assert read_lines(tmp_path / "metrics.jsonl")[-1]["round"] == 5
    # Started again, it tries as many rounds again; with 0 it never gives up.
    again = loop_over(tmp_path, edits)
    assert again.play().startswith("given up: rounds 6 to 8 ")
    assert loop_over(tmp_path, edits, give_up_after=0).play() == "all 9 rounds"


def test_a_step_in_between_begins_the_count_anew_and_a_kill_does_not(tmp_path):
    edits = dict.fromkeys("abc", lost({1, 2, 4, 5, 6}))
    killed = loop_over(tmp_path, edits)
    killed.transport.die_in = 5
    with pytest.raises(KeyboardInterrupt):
        killed.play()
    assert loop_over(tmp_path, edits).play().startswith("given up: rounds 4 to 6 ")


def test_too_few_replies_are_told_from_dropped_ones(tmp_path):
    edits = {c: lost(range(99), reason="late") for c in "ab"}
    why = loop_over(tmp_path, edits, min_replies=2, give_up_after=2).play()
    assert "4 late, 2 accepted, fewer than round.min-replies" in why


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_run(tmp_path, loss):
    def scores(values):
        return {"accuracy": 0.5, "loss": loss if values[0] < -1.5 else 1.0}

    loop = loop_over(tmp_path, {}, evaluate=scores, evaluate_every=1)
    why = loop.play()
    assert f"after round 3 is {loss}" in why and "smaller client.lr or server.lr" in why
    # Nothing that follows could mend it.
    again = loop_over(tmp_path, {}, evaluate=scores, evaluate_every=1)
    assert again.play() == why
    assert again.transport.submitted == []
