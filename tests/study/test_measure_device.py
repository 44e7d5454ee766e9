"""A machine as a class of devices: timed on real steps, written as a profile that is read."""

import pytest
import tomli_w
from typer.testing import CliRunner

from fedllm_app.cli import app
from fedllm_app.config import RunConfig
from fedllm_app.devices.fleet import Fleet
from fedllm_app.devices.profile import UNITS, read_profiles
from fedllm_app.study import power
from fedllm_app.study.measure_device import _power, as_toml, measured_profile
from fedllm_app.study.power import Drawn


@pytest.fixture
def config(tiny):
    own = {"partition.clients": 3, "round.clients": 2, "lora.rank": 2, "client.batch": 4}
    return RunConfig.parse(tiny.keys() | own)


def test_what_is_measured_is_a_class_that_a_fleet_can_have(config, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(power, "ENERGY", tmp_path / "none")
    like = read_profiles()["embedded"]
    found = measured_profile(config, "mine", like, seconds=0.05, watts=7.0)
    file = tmp_path / "mine.toml"
    file.write_text(tomli_w.dumps(as_toml(found)))
    run = RunConfig.parse(tiny.keys() | {"devices.fleet": "mine=1", "devices.files": str(file)})
    read = Fleet(run.devices, 0).of("anyone")
    assert read == found and read.figures.keys() == UNITS.keys()
    kinds = {name: figure.kind for name, figure in read.figures.items()}
    assert {name for name, kind in kinds.items() if kind == "measured"} == {"flops", "memory"}
    assert 1e5 < read["flops"] < 1e13 and read["memory"] > 1e8
    assert read["compute-power"] == 7.0 and read["up"] == like["up"]
    FLOPs, step_s = (float(read.figures["flops"].source.split()[at]) for at in (0, 3))
    assert config.model.source not in file.read_text()
    assert read["flops"] == pytest.approx(FLOPs / step_s, rel=0.02)


def test_power_is_measured_or_given_or_assumed_in_this_order():
    like = read_profiles()["laptop"]
    reported = _power(Drawn({"package-0": 14.0, "GPU": 200.0}), 7.0, like)
    assert (reported.value, reported.kind) == (214.0, "measured")
    given = _power(Drawn(), 7.0, like)
    assert (given.value, given.kind) == (7.0, "assumed")
    unknown = _power(Drawn(), 0.0, like)
    assert (unknown.value, unknown.kind) == (like["compute-power"], "assumed")
    assert "fill it in" in unknown.source


def test_wrong_options_are_told_at_once_before_anything_is_measured(tmp_path):
    words = ["--name", "my board", "--like", "toaster", "--watts", "-1", "--seconds", "0"]
    out = tmp_path / "none" / "mine.toml"
    result = CliRunner().invoke(app, ["devices", "measure", *words, "--out", str(out)])
    told = result.output
    assert result.exit_code != 0 and not out.exists()
    for problem in ("--name: name is", "--like is", "--watts is", "--seconds is", "--out is"):
        assert problem in told, problem
