"""The rows of `make bench`: their verdicts, and those groups that need no data."""

import subprocess

import numpy as np
import pytest

from benchmarks.bench import said_to, table
from benchmarks.rows import growth, payload
from benchmarks.rows.kernels import gpt2_layout, uneven
from benchmarks.rows.row import Context, Row, alternately, ratio_of


@pytest.mark.parametrize(
    ("judged", "target", "verdict"),
    [
        (1.02, ("at most", 1.02), "pass"),
        (1.03, ("at most", 1.02), "short"),
        (30.0, ("at least", 30), "pass"),
        (29.9, ("at least", 30), "short"),
        (5.0, None, "report"),
    ],
)
def test_a_verdict_is_the_target_s(judged, target, verdict):
    row = Row(what="x", judged=judged, target=target)
    assert row.verdict == verdict
    assert row.record()["verdict"] == verdict


def test_what_was_not_given_is_named_and_not_run(tmp_path):
    context = Context(True, {"minilm": "/m"}, tmp_path, tmp_path)
    assert context.lacks("minilm") == ""
    assert context.lacks("20newsgroups", "minilm") == "needs --data 20newsgroups=PATH"
    row = Row(what="x", skipped=context.lacks("20newsgroups"), target=("at most", 1.0))
    assert row.verdict == "not run"
    assert table([row, Row(what="y", judged=2.0)]).row_count == 2


def test_what_a_group_prints_is_shown_only_if_it_fails(tmp_path, capfd):
    with said_to(tmp_path / "good.txt"):
        subprocess.run(["echo", "from a process"], check=True)
    assert (tmp_path / "good.txt").read_text() == "from a process\n"
    with pytest.raises(RuntimeError), said_to(tmp_path / "bad.txt"):
        subprocess.run(["echo", "what went wrong"], check=True)
        raise RuntimeError
    print("after")
    assert capfd.readouterr().out == "what went wrong\n\nafter\n"


def test_ratios_are_of_neighbours():
    assert ratio_of([1.0, 4.0, 9.0], [1.0, 2.0, 3.0]) == 2.0
    calls = []
    seconds = alternately(2, lambda: calls.append("a"), lambda: calls.append("b"))
    assert "".join(calls) == "ab" * 3
    assert [len(own) for own in seconds] == [2, 2]


def test_random_supports_keep_what_is_promised(tmp_path):
    rows = payload.measure(Context(True, {}, tmp_path, tmp_path))
    assert [row.verdict for row in rows] == ["pass"] * 3


def test_the_layout_is_that_of_gpt2_with_uneven_slices():
    layout = gpt2_layout()
    assert layout.size == 12 * 16 * (768 + 2304 + 768 + 768 + 768 + 3072 + 3072 + 768)
    values = uneven(gpt2_layout(1), np.random.default_rng(0))
    rank = values[: 16 * 768].reshape(16, 768).std(axis=1)  # the ranks of the first A
    assert rank.max() > 3 * rank.min()


def test_an_exponent_is_the_slope_on_log_axes():
    assert growth.exponent([(1, 3), (10, 300), (100, 30_000)]) == pytest.approx(2.0)
