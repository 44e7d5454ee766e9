"""The wall-time model against its published values, and `fedllm walltime` as it is typed."""

import pytest
from typer.testing import CliRunner

from fedllm_app.cli import app
from fedllm_app.config import RunConfig
from fedllm_app.study.walltime import TOPOLOGIES, Run, Traffic, compressed, rows, total_s

S_OVER_B = Traffic(0.05, 0.05)  # seconds that the model takes over a link of 1 byte a second


@pytest.mark.parametrize(
    ("clients", "rounds", "published"),
    [
        (1, 390, (288.6, 249.6, 249.6)),
        (2, 230, (193.2, 158.7, 158.7)),
        (4, 229, (238.16, 180.91, 163.735)),
        (8, 234, (336.96, 231.66, 170.235)),
    ],
)
def test_the_seconds_are_those_of_the_paper(clients, rounds, published):
    run = Run(rounds, 64, clients, 100.0)
    ours = [total_s(run, topology, S_OVER_B, 1.0) for topology in TOPOLOGIES]
    assert ours == pytest.approx(published)


def test_the_hours_of_seven_billion_are_those_of_the_paper():
    model, link = Traffic.dense(6.66e9, 2.0), 10e9 / 8
    federated = total_s(Run(22, 500, 4, 0.032), "ring", model, link)
    centralized = total_s(Run(21_908, 1, 4, 0.12), "ring", model, link)
    assert federated / 3600 == pytest.approx(95.6, abs=0.05)
    assert centralized / 3600 == pytest.approx(147.9, abs=0.1)


def test_compression_is_what_the_codec_writes():
    sparse = {"strategy.d-up": 1 / 64, "strategy.d-down": 1.0, "wire.up-values": "q4"}
    config = RunConfig.parse({"model.train": "full", "round.clients": 2} | sparse).resolved()
    traffic = compressed(config, 1e9)
    assert 4e9 / traffic.down == pytest.approx(1, rel=0.01)
    assert 160 < 4e9 / traffic.up < 190
    run = Run(10, 100, 2, 1.0)
    found = {(r.way, r.topology): r for r in rows(run, Traffic.dense(1e9), traffic, 1e9)}
    assert len(found) == 8
    ways = ("every step", "every round", "every round, compressed")
    hours = [found[way, "all-reduce"].seconds for way in ways]
    assert hours == sorted(hours, reverse=True)
    assert found[ways[2], "all-reduce"].seconds == pytest.approx(1000 + 10 * traffic.up / 1e9)
    assert found["every step", "ring"].communication == pytest.approx(4 / 5)


def test_the_command_prints_hours_and_refuses_all_that_is_wrong_at_once():
    runner = CliRunner(env={"COLUMNS": "200"})
    words = ["walltime", "client.steps=64", "model.train=full", "strategy.name=fedavg"]
    done = runner.invoke(app, [*words, "--parameters", "125e6", "--steps-per-s", "2"])
    assert done.exit_code == 0, done.output
    assert "40 rounds of 64 steps, 5 clients" in done.output
    assert "0.5 GB each way" in done.output
    bad = runner.invoke(app, ["walltime", "--gbps", "0"])
    assert bad.exit_code == 1
    for name in ("--parameters", "--steps-per-s", "--gbps", "client.steps"):
        assert name in bad.stderr
