"""A machine as a class of devices: timed on real steps, written as a profile that is read."""

import pytest
import tomli_w

from fedllm_app.config import RunConfig
from fedllm_app.devices.profile import UNITS, read_profile, read_profiles
from fedllm_app.study import measure_device
from fedllm_app.study.measure_device import as_toml, measured_profile


@pytest.fixture
def config(tiny):
    own = {"partition.clients": 3, "round.clients": 2, "lora.rank": 2, "client.batch": 4}
    return RunConfig.parse(tiny.keys() | own)


def counters(folder, *microjoules):
    """Write what a system with a processor's counter of energy has, read after read."""
    values = iter(microjoules)

    class Counter:
        parent = folder

        def read_text(self):
            return str(next(values))

        def __lt__(self, other):
            return False

    class Folder:
        def glob(self, pattern):
            return [Counter()]

    return Folder()


def test_flops_and_memory_are_measured_and_the_rest_is_assumed(config, tmp_path):
    like = read_profiles()["embedded"]
    found = measured_profile(config, "mine", like, seconds=0.05, watts=7.0)
    file = tmp_path / "mine.toml"
    file.write_text(tomli_w.dumps(as_toml(found)))
    read = read_profile(file)
    assert read.name == "mine" and read.figures.keys() == UNITS.keys()
    kinds = {name: figure.kind for name, figure in read.figures.items()}
    assert {name for name, kind in kinds.items() if kind == "measured"} == {"flops", "memory"}
    assert 1e5 < read["flops"] < 1e13 and read["memory"] > 1e8
    assert read["compute-power"] == 7.0 and read["up"] == like["up"]


def test_watts_are_measured_where_the_system_counts_energy(config, tmp_path, monkeypatch):
    monkeypatch.setattr(measure_device, "ENERGY", counters(tmp_path, 1_000_000, 5_000_000))
    found = measured_profile(config, "mine", read_profiles()["laptop"], seconds=0.05, watts=7.0)
    assert found.figures["compute-power"].kind == "measured"
    assert found["compute-power"] > 0 and found["compute-power"] != 7.0


def test_a_counter_that_begins_anew_tells_nothing():
    assert measure_device._power({"a": 5.0}, {"a": 1.0}, 2.0) == 0
    assert measure_device._power({"a": 5.0, "b": 1.0}, {"a": 9.0}, 2.0) == 2.0
    assert measure_device._power({}, {}, 2.0) == 0
