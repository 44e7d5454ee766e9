"""A sweep from its file: what is asked for, what is refused, and one that is played."""

import csv
import math
from contextlib import nullcontext

import pytest
import tomli_w
from typer.testing import CliRunner

from fedllm_app.cli import app
from fedllm_app.core.errors import ConfigError
from fedllm_app.play import run_local
from fedllm_app.study.crew import Ended
from fedllm_app.study.search import Bayes, Range, read_sweep


def written(path, vary, **words):
    """Write a sweep's file."""
    path.write_text(tomli_w.dumps({**words, "vary": vary}))
    return path


def test_a_grid_has_every_pair_once_and_names_stay(tmp_path):
    vary = {"client.lr": [0.01, 0.1], "run.seed": [0, 1, 2]}
    cells = read_sweep(written(tmp_path / "a.toml", vary, set={"run.rounds": 3})).cells()
    assert len({cell.name for cell in cells}) == 6
    assert all(cell.settings["run.rounds"] == 3 for cell in cells)
    grown = read_sweep(
        written(tmp_path / "b.toml", vary | {"run.seed": [2, 0, 1, 3]}, set={"run.rounds": 3})
    )
    assert {cell.name for cell in cells} < {cell.name for cell in grown.cells()}


def test_a_random_search_stays_in_its_ranges_and_grows(tmp_path):
    vary = {
        "server.lr": {"low": 1e-4, "high": 1e-1, "log": True},
        "client.batch": {"low": 2, "high": 8},
        "run.seed": [0, 1],
    }
    few = read_sweep(written(tmp_path / "a.toml", vary, search="random", trials=40)).cells()
    more = read_sweep(written(tmp_path / "a.toml", vary, search="random", trials=50)).cells()
    assert [c.name for c in few] == [c.name for c in more[: len(few)]]
    rates = [c.settings["server.lr"] for c in few]
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)
    assert 10 < sum(rate < 10**-2.5 for rate in rates) < 30
    assert {c.settings["client.batch"] for c in more} == set(range(2, 9))


def test_whole_ranges_have_both_ends_and_nothing_beyond():
    assert [Range(2, 8).at(share) for share in (0.0, 0.5, 1.0)] == [2, 5, 8]
    assert Range(1.0, 100.0, log=True).at(0.5) == pytest.approx(10)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"vary": {}}, "[vary] is empty"),
        ({"vary": {"client.lr": []}}, "vary 'client.lr' is []; expected a list of values"),
        ({"vary": {"client.lr": [-1.0]}}, "client.lr is -1.0"),
        ({"vary": {"client.learning": [1.0]}}, "unknown key"),
        ({"vary": {"client.lr": {"low": 0.1, "high": 1.0}}}, "is a range; expected a list"),
        ({"vary": {"client.lr": {"low": 1, "high": 0.1}}, "search": "random"}, "low below high"),
        ({"vary": {"run.seed": [0]}, "search": "best"}, "search is 'best'; expected one of grid"),
        ({"vary": {"run.seed": [0]}, "trails": 3}, "trails is unknown"),
        ({"vary": {"run.seed": [*range(101)], "run.rounds": [*range(1, 101)]}}, "10,100 runs"),
    ],
)  # fmt: skip
def test_a_wrong_sweep_is_refused_before_a_run_begins(tmp_path, words, told):
    file = tmp_path / "a.toml"
    file.write_text(tomli_w.dumps(words))
    with pytest.raises(ConfigError) as error:
        read_sweep(file)
    assert told in str(error.value)


def test_bayes_proposes_by_the_results_and_the_same_for_the_same(tmp_path):
    vary = {"client.lr": {"low": 1e-4, "high": 1.0, "log": True}}
    asked = read_sweep(written(tmp_path / "a.toml", vary, search="bayes", trials=30))

    def proposed(best):
        search, rates = Bayes(asked, falling=True), []
        for _ in range(10):
            for trial, cell in search.ask(2):
                rate = cell.settings["client.lr"]
                search.tell(trial, abs(math.log10(rate / best)) if rate < 0.5 else None)
                rates.append(rate)
        return rates

    low, high = proposed(1e-3), proposed(1e-1)
    assert low == proposed(1e-3)
    assert low != high
    assert low[0] == high[0]  # the first know of no result
    assert all(1e-4 <= rate <= 1 for rate in low)


def test_a_sweep_is_played_and_started_again_plays_nothing(tiny, tmp_path):
    own = {"partition.clients": 3, "round.clients": 2, "run.rounds": 1, "lora.rank": 2}
    vary = {"client.lr": [0.01, 0.1]}
    fixed = {key: value for key, value in (tiny.keys() | own).items() if key != "run.home"}
    file = written(tmp_path / "rates.toml", vary, set=fixed)
    words = ["sweep", str(file), "--home", str(tmp_path / "home")]
    first = CliRunner().invoke(app, words)
    assert first.exit_code == 0, first.output
    assert "2 cells: 0 are finished, 2 to play" in first.output
    with (tmp_path / "home/sweeps/rates/table.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert {row["client.lr"] for row in rows} == {"0.01", "0.1"}
    assert float(rows[0]["accuracy"]) >= float(rows[1]["accuracy"])
    assert all(int(row["up-bytes"]) > 0 for row in rows)
    assert (tmp_path / "home/sweeps/rates/report.html").exists()
    assert "2 are finished, 0 to play" in CliRunner().invoke(app, words).output


@pytest.mark.parametrize("search", ["grid", "bayes"])
def test_a_sweep_that_is_stopped_leaves_the_table_of_what_is_played(
    tiny, tmp_path, monkeypatch, search
):
    """The second run is cut off as by Ctrl-C."""
    played = []

    class Here:
        def start(self, name, config, log):
            if played:
                raise KeyboardInterrupt
            played.append(run_local(config).name)

        def ended(self):
            return [Ended(played[0], 1.0, True)]

    monkeypatch.setattr("fedllm_app.study.crew.processes", lambda: nullcontext(Here()))
    own = {"partition.clients": 3, "round.clients": 2, "run.rounds": 1, "lora.rank": 2}
    fixed = {key: value for key, value in (tiny.keys() | own).items() if key != "run.home"}
    words = {"search": search} | ({"trials": 2} if search == "bayes" else {})
    file = written(tmp_path / "cut.toml", {"client.lr": [0.01, 0.1]}, set=fixed, **words)
    asked = ["sweep", str(file), "--home", str(tmp_path / "home"), "--workers", "1"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 130 and "1 runs in " in done.output
    with (tmp_path / "home/sweeps/cut/table.csv").open() as table:
        assert [row["run"] for row in csv.DictReader(table)] == played
