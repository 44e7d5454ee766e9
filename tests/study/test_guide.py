"""The guide: what a run costs on another fleet, what it advises, and when it does not know."""

import json
from math import log

import pytest
from typer.testing import CliRunner

from fedllm_app.cli import app
from fedllm_app.config import RunConfig, read_recipe
from fedllm_app.core.errors import ConfigError, DataError
from fedllm_app.play import run_local
from fedllm_app.run.metrics import read_lines
from fedllm_app.study.budget import Budget
from fedllm_app.study.command import network_for, predictor
from fedllm_app.study.finished_runs import read_observed, row_of
from fedllm_app.study.guide import advise, choices, front
from fedllm_app.study.observed import observed
from fedllm_app.study.on_fleet import OnFleet

FLEET = "phone=0.5,pc=0.5"


@pytest.fixture(scope="module")
def played(tiny, tmp_path_factory):
    """Return the folder of a run on a fleet, three of six clients a round."""
    keys = tiny.keys("next-token") | {
        "run.home": str(tmp_path_factory.mktemp("guide")), "run.name": "metered", "run.rounds": 4,
        "partition.name": "iid", "partition.clients": 6, "round.clients": 3,
        "round.evaluate-every": 2, "client.steps": 2, "client.batch": 2,
        "strategy.name": "dense", "devices.fleet": FLEET,
    }  # fmt: skip
    return run_local(RunConfig.parse(keys))


def test_a_run_costs_on_its_own_fleet_what_its_meter_says(played):
    run = observed(row_of(played, {}))
    spent = OnFleet(FLEET, draws=1).spent(run)
    lines = [r for r in read_lines(played / "metrics.jsonl") if "energy-j" in r]
    assert len(lines) == 4
    assert spent.time == pytest.approx([r["simulated-s"] for r in lines], rel=1e-6)
    assert spent.energy == pytest.approx([r["energy-j"] for r in lines], rel=1e-6)
    assert spent.compute == pytest.approx([r["flops"] for r in lines])
    assert spent.bytes == pytest.approx([r["up-bytes"] + r["down-bytes"] for r in lines])
    assert OnFleet("wearable=1").spent(run).time[-1] > 2 * spent.time[-1]


def test_the_planner_predicts_the_joules_of_the_meter(played):
    c = RunConfig.parse(read_recipe(played / "config.toml"))
    network = network_for(c, 0.0, 0.0, 0.0, None)
    costs = predictor(c, network).costs(c)
    last = [r for r in read_lines(played / "metrics.jsonl") if "energy-j" in r][-1]
    assert costs.energy_j.sum() == pytest.approx(last["energy-j"], rel=1e-3)
    assert costs.seconds.sum() == pytest.approx(last["simulated-s"], rel=1e-3)
    half = Budget(energy_j=0.6 * last["energy-j"])
    assert half.limits == {"joules": pytest.approx(0.6 * last["energy-j"])}
    assert 1 <= half.rounds(costs) < 4


def test_a_folder_of_runs_is_read_as_rows(played):
    (run,) = read_observed(played.parents[1])
    assert (run.rounds, run.clients, run.population) == (4, 3, 6)
    assert sorted(run.curve) == [2, 4]
    assert run.settings["strategy.name"] == "dense" and run.parameters > 0


def row(name, perplexity, lr=0.1, batch=4, seed=0, flops=1e12, rounds=10, **more):
    """Return a row of 100 clients, 5 a round, that was evaluated half-way and at its end."""
    return {
        "run": name, "settings": {"client.lr": lr, "client.batch": batch},
        "curve": {str(rounds // 2): log(2 * perplexity), str(rounds): log(perplexity)},
        "rounds": rounds, "clients": 5, "population": 100, "seed": seed, "flops": flops,
        "up-bytes": 5e6, "down-bytes": 5e6, "parameters": 1000, "tokens": 10_000,
    } | more  # fmt: skip


def runs(*rows):
    return [observed(one) for one in rows]


# Perplexity 104 costs half of 100; 130 costs least.
STUDY = runs(
    row("best", 100.0, lr=0.2), row("half", 104.0, lr=0.1, flops=5e11),
    row("half again", 104.4, lr=0.1, flops=5e11, seed=1), row("bad", 130.0, lr=0.05, flops=1e11),
    row("wide", 101.0, lr=0.1, batch=8, flops=9e11),
)  # fmt: skip


def test_the_cheapest_within_the_margin_is_advised():
    fleet = OnFleet("phone=1")
    assert advise(STUDY, fleet, "energy", 5).choice.setting.knobs["client.lr"] == 0.1
    assert advise(STUDY, fleet, "energy", 1).choice.setting.knobs["client.batch"] == 8
    assert advise(STUDY, fleet, "energy", 0).choice.setting.knobs["client.lr"] == 0.2
    assert advise(STUDY, fleet, "compute", 50).choice.setting.knobs["client.lr"] == 0.05


def test_a_limit_buys_the_lowest_perplexity():
    fleet = OnFleet("phone=1")
    assert advise(STUDY, fleet, "compute", most=6e11).choice.perplexity == pytest.approx(
        104.2, 1e-3
    )
    with pytest.raises(DataError, match="cheapest evaluation costs 5e\\+10"):
        advise(STUDY, fleet, "compute", most=1e9)


def test_seeds_say_what_cannot_be_told_apart():
    advice = advise(STUDY, OnFleet("phone=1"), "compute", 5)
    assert advice.sigma == pytest.approx(abs(log(104.4 / 104)) / 2**0.5)
    fleet, other = OnFleet("phone=1"), row("c", 114.0, lr=0.2, flops=1.05e12)
    noisy = advise(runs(row("a", 100.0), row("b", 112.0, seed=1), other), fleet, "compute")
    assert [c.setting.runs[0].name for c in noisy.rivals] == ["c"]
    quiet = advise(runs(row("a", 100.0), row("b", 100.1, seed=1), other), fleet, "compute")
    assert not quiet.rivals


def test_neighbours_differ_in_one_knob():
    found = advise(STUDY, OnFleet("phone=1"), "compute", 5).neighbours
    assert [(n.knob, n.after) for n in found] == [
        ("client.batch", 8), ("client.lr", 0.05), ("client.lr", 0.2),
    ]  # fmt: skip
    assert found[1].times == pytest.approx(0.2) and found[2].percent < 0


def test_it_says_what_it_does_not_know():
    told = " ".join(advise(STUDY, OnFleet("phone=1"), "energy", 0).doubts)
    assert "client.lr=0.2 is the highest that was tried" in told
    assert "played with one seed" in told and "phone: radio-power" in told
    assert "10,000 tokens" in told and "times smaller or larger" not in told
    assert "times smaller or larger" in " ".join(
        advise(STUDY, OnFleet("phone=1", scale=100), "energy").doubts
    )
    alone = advise(STUDY[:1], OnFleet("phone=1"), "energy")
    assert any("nothing can be said about chance" in doubt for doubt in alone.doubts)


def test_the_front_has_nothing_that_is_dearer_and_no_better():
    found = front(choices(STUDY, OnFleet("phone=1")), "compute")
    costs, losses = [c.costs["compute"] for c in found], [c.loss for c in found]
    assert costs == sorted(costs) and losses == sorted(losses, reverse=True)
    assert found[-1].perplexity == pytest.approx(100)


def test_a_wrong_fleet_and_rows_that_lack_something_are_named(tmp_path):
    with pytest.raises(ConfigError, match="toaster"):
        OnFleet("toaster=1")
    file = tmp_path / "rows.json"
    file.write_text(json.dumps({"rows": [{"run": "a", "settings": {}}]}))
    with pytest.raises(DataError, match="row 'a' lacks curve, rounds"):
        read_observed(file)
    file.write_text("no")
    with pytest.raises(DataError, match="cannot be read"):
        read_observed(file)
    file.write_text(json.dumps({"rows": [row("central", 9.0, population=1)]}))
    with pytest.raises(DataError, match="no federated run"):
        read_observed(file)


def test_the_command_prints_the_advice_and_draws_the_front(tmp_path):
    file, plot = tmp_path / "rows.json", tmp_path / "front.png"
    rows = [row("best", 100.0, lr=0.2), row("half", 104.0, flops=5e11)]
    file.write_text(json.dumps({"rows": rows}))
    words = ["guide", str(file), "--fleet", "phone=1", "--goal", "time", "--plot", str(plot)]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    assert "Take: client.lr = 0.1; all 10 rounds." in told.output
    assert plot.stat().st_size > 1000
    refused = CliRunner().invoke(app, ["guide", str(file), "--fleet", "phone=1", "--goal", "fame"])
    assert refused.exit_code == 1
