"""Sweeps of real, tiny runs: none twice, none lost, none left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fedllm_app.core.errors import ConfigError
from fedllm_app.run.metrics import read_lines
from fedllm_app.study.sweep import Cell, SweepError, finished, play, rounds_left, seconds_left

ROOT = Path(__file__).parents[2]


def cell(tiny, name, rounds=2, **settings):
    own = {"partition.clients": 3, "round.clients": 2, "lora.rank": 2, "round.evaluate-every": 1}
    chosen = {key.replace("_", ".", 1): value for key, value in settings.items()}
    return Cell(
        name, tiny.keys() | own | {"run.rounds": rounds, "run.checkpoint-every": 1} | chosen
    )


def metrics(home, name):
    return (home / "runs" / name / "metrics.jsonl").read_bytes()


def test_cells_are_played_once_and_a_failing_one_does_not_stop_the_others(tiny, tmp_path):
    good, longer = cell(tiny, "good"), cell(tiny, "good", rounds=3)
    wrong = cell(tiny, "wrong", strategy_name="no-such-method")
    broken = cell(tiny, "broken", data_train=str(tmp_path / "nowhere"))
    said: list[str] = []
    with pytest.raises(SweepError, match="2 of 4 cells failed") as caught:
        play([wrong, broken, good, longer], tmp_path, say=said.append)
    assert "no-such-method" in str(caught.value) and "no such file or folder" in str(caught.value)
    # The same run, longer: played after the short one, not beside it.
    assert finished(good, tmp_path) and finished(longer, tmp_path)
    assert [r["round"] for r in read_lines(tmp_path / "runs/good/metrics.jsonl")] == [0, 1, 2, 3]
    assert any(line.startswith("good: accuracy ") for line in said)
    # What a cell prints is in its own log.
    assert "round 2/2" in (tmp_path / "logs" / "good.log").read_text()
    assert not any("round 2/2" in line for line in said)
    again: list[str] = []
    play([good, longer], tmp_path, say=again.append)
    assert again == ["2 cells: 2 are finished, 0 to play"]


@pytest.fixture(scope="module")
def home(tiny, tmp_path_factory):
    """Return a home with one finished run of two rounds, called one."""
    folder = tmp_path_factory.mktemp("sweep")
    play([cell(tiny, "one")], folder, workers=1, say=lambda line: None)
    return folder


def test_a_finished_run_with_other_settings_is_not_taken_for_the_cell(tiny, home):
    assert finished(cell(tiny, "one"), home)
    assert not finished(cell(tiny, "one", rounds=3), home)
    # Where its data lie makes a run no other one.
    assert finished(cell(tiny, "one", data_train="/moved"), home)
    with pytest.raises(SweepError, match=r"lora.alpha was 16.0 and is 4.0"):
        finished(cell(tiny, "one", lora_alpha=4.0), home)
    with pytest.raises(ConfigError, match=r"lora.rank is 0"):
        finished(cell(tiny, "one", lora_rank=0), home)


def test_a_result_of_a_shorter_run_does_not_make_a_longer_one_finished(tiny, home):
    about = home / "runs" / "one" / "adapter" / "fedllm.json"
    before = about.read_text()
    words = json.loads(before)
    assert words["round"] == 2
    about.write_text(json.dumps(words | {"round": 1}))
    assert not finished(cell(tiny, "one"), home)
    about.write_text(before)
    assert finished(cell(tiny, "one"), home)


def test_a_process_that_dies_before_it_says_anything_is_a_failed_cell(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("fedllm_app.study.crew._play_here", os._exit)  # a wrong argument ends it
    with pytest.raises(SweepError, match="it said nothing"):
        play([cell(tiny, "mute")], tmp_path, say=lambda line: None)


def test_what_is_left_is_rounds_times_the_measured_pace(tiny, home):
    done, todo = cell(tiny, "one", rounds=4), cell(tiny, "todo", rounds=10)
    assert seconds_left([todo], home) is None
    assert [rounds_left(c, home) for c in (done, todo)] == [2, 10]
    timing = home / "runs" / "one" / "timing.jsonl"
    timing.write_text('{"round":0}\n{"round":1,"seconds":4.0}\n{"round":2,"seconds":2.0}\n')
    assert seconds_left([done, todo], home) == 12 * 3.0
    # A shorter cell of the same run is part of the longer one.
    assert seconds_left([done, cell(tiny, "one", rounds=3), todo], home) == 12 * 3.0


SWEEP = """
import sys
from pathlib import Path
from fedllm_app.study.sweep import Cell, play

if __name__ == "__main__":
    settings = {settings!r}
    play([Cell(n, settings) for n in ("one",)], Path({home!r}), workers=2)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_sweep_that_is_ended_leaves_nothing_running_and_goes_on(tiny, tmp_path, how):
    rounds = 40  # long enough to be ended midway
    script, settings = tmp_path / "sweep.py", dict(cell(tiny, "x", rounds=rounds).settings)
    script.write_text(SWEEP.format(settings=settings, home=str(tmp_path)))
    command = [sys.executable, str(script)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command, env=environment, start_new_session=True)
    path = tmp_path / "runs" / "one" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while len(read_lines(path)) < 4:
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    children = psutil.Process(first.pid).children(recursive=True)
    assert children
    first.send_signal(how)
    assert first.wait(30) != 0
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    again = Cell("one", settings)
    before = metrics(tmp_path, "one")
    assert not finished(again, tmp_path)
    if how == signal.SIGTERM:  # how a run goes on, to the same bits, is tested with the runs
        play([again], tmp_path, say=lambda line: None)
        assert finished(again, tmp_path)
        assert metrics(tmp_path, "one").startswith(before[: before.rfind(b'{"round":3')])
        assert [r["round"] for r in read_lines(path)] == list(range(rounds + 1))
