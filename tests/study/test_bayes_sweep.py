"""A Bayesian sweep meets settings that are refused: it says so in time, and it goes on."""

import csv
import json
from contextlib import contextmanager

import pytest
import tomli_w
from typer.testing import CliRunner

from fedllm_app.cli import app
from fedllm_app.core.errors import ConfigError
from fedllm_app.play import run_local
from fedllm_app.study.crew import Ended
from fedllm_app.study.search import read_sweep
from fedllm_app.study.sweep import Cell, SweepError, play, seconds_left
from fedllm_app.study.sweep_table import falling


class Here:
    """Plays runs in this process."""

    def __init__(self):
        self.over = []

    def start(self, name, config, log):
        run_local(config)
        self.over.append(Ended(name, 1.0, True))

    def ended(self):
        over, self.over = self.over, []
        return over


@contextmanager
def here():
    """Yield them."""
    yield Here()


def asked(path, vary, **words):
    path.write_text(tomli_w.dumps({"search": "bayes", **words, "vary": vary}))
    return path


def test_an_end_that_goes_with_nothing_is_refused_before_the_first_run(tmp_path):
    clients = {"round.clients": {"low": 5, "high": 60}}
    with pytest.raises(ConfigError) as error:
        read_sweep(asked(tmp_path / "a.toml", clients, set={"partition.clients": 20}))
    assert "round.clients is 60; expected at most partition.clients = 20" in str(error.value)
    # A value of a list that is no first one counts, too.
    with pytest.raises(ConfigError, match=r"client\.optimizer is 'adom'"):
        read_sweep(asked(tmp_path / "a.toml", {"client.optimizer": ["sgd", "adom"]}))
    # 60 of 20 clients are too many, but 60 of 100 are not: the search may find that.
    both = clients | {"partition.clients": [20, 100]}
    assert read_sweep(asked(tmp_path / "a.toml", both)).search == "bayes"
    # Where both have to be high, low ends alone are no reason to refuse.
    high = {"round.clients": [8, 4], "partition.clients": [6, 9]}
    assert read_sweep(asked(tmp_path / "a.toml", high)).search == "bayes"


def test_an_illegal_proposal_is_a_failed_trial_and_the_sweep_goes_on(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("fedllm_app.study.sweep_command._crew", lambda ray, workers: here)
    told = []
    tell = "fedllm_app.study.search.Bayes.tell"
    monkeypatch.setattr(tell, lambda self, trial, value: told.append(value))
    fixed = {k: v for k, v in tiny.keys().items() if k != "run.home"}
    fixed |= {"run.rounds": 1, "lora.rank": 2, "partition.clients": 3, "devices.fleet": "phone=1"}
    clients = {"round.clients": [2, 5], "partition.clients": [6, 3]}
    file = asked(tmp_path / "mine.toml", clients, trials=6, seed=1, set=fixed)
    result = CliRunner().invoke(app, ["sweep", str(file), "--home", str(tmp_path / "home")])
    assert result.exit_code == 0, result.output
    with (tmp_path / "home/sweeps/mine/table.csv").open() as table:
        rows = list(csv.DictReader(table))
    failed = [row for row in rows if row["failed"]]
    assert failed == rows[-len(failed) :]  # below those that were played
    assert {(row["round.clients"], row["partition.clients"]) for row in failed} == {("5", "3")}
    assert "round.clients is 5; expected at most partition.clients = 3" in failed[0]["failed"]
    assert len(told) == 6 and None in told and any(value is not None for value in told)
    assert len(rows) - len(failed) == len({row["run"] for row in rows}) - 1
    # Trials are counted over the whole sweep.
    assert "cells 1 to 2 of 6: " in result.output and "cells 5 to 6 of 6: " in result.output
    assert "why a run failed is in the table" in result.output
    # The guide finds the runs by the table.
    words = ["guide", str(tmp_path / "home/sweeps/mine"), "--fleet", "phone=1", "--goal", "time"]
    guide = CliRunner().invoke(app, words)
    assert guide.exit_code == 0 and "Take: " in guide.output, guide.output


def test_the_time_left_counts_trials_that_nobody_has_proposed_yet(tmp_path):
    """A round takes 3 s; runs have two rounds and one, so one to come takes 4.5 s."""

    class Written(Here):
        def start(self, name, config, log):
            folder = tmp_path / "runs" / name
            folder.mkdir(parents=True)
            rounds = range(1, config.run.rounds + 1)
            lines = [json.dumps({"round": t, "seconds": 3.0}) + "\n" for t in rounds]
            (folder / "timing.jsonl").write_text("".join(lines))
            (folder / "metrics.jsonl").write_text("".join(lines))
            self.over.append(Ended(name, 1.0, True))

    crew = contextmanager(lambda: iter([Written()]))
    bad = Cell("bad", {"client.lr": -1.0})
    one, two = Cell("one", {"run.rounds": 2}), Cell("two", {"run.rounds": 1})
    said = []
    play([one], tmp_path, 1, said.append, crew, before=[bad], later=3)
    assert said[0] == "cells 2 to 2 of 5: 0 are finished, 1 to play"
    assert "; 3 left, about " in said[1]
    play([two], tmp_path, 1, said.append, crew, before=[bad, one], later=2)
    assert said[2] == "cells 3 to 3 of 5: 0 are finished, 1 to play"
    assert "; 2 left, about " in said[3]
    assert seconds_left([], tmp_path, before=[one, two], later=2) == 2 * 4.5


def test_a_failure_is_named_with_its_reason(tmp_path):
    bad = Cell("bad", {"client.lr": -1.0})
    with pytest.raises(SweepError) as error:
        play([bad], tmp_path, say=lambda words: None)
    assert "client.lr is -1.0" in error.value.failed["bad"]


@pytest.mark.parametrize("search", ["grid", "random", "bayes"])
def test_the_base_may_be_illegal_where_what_varies_mends_it(tmp_path, search):
    """With 3 clients the 5 of the default are too many."""
    words = {"search": search, "set": {"partition.clients": 3}}
    assert not falling(read_sweep(asked(tmp_path / "a.toml", {"round.clients": [2, 3]}, **words)))
    words["set"] |= {"task.name": "pretraining", "client.steps": 4}
    assert falling(read_sweep(asked(tmp_path / "a.toml", {"round.clients": [2, 3]}, **words)))
