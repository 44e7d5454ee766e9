"""How long local steps last: by hand, spread by client, and read from a file."""

import math

import numpy as np
import pytest

from fedllm_app.core.errors import ConfigError
from fedllm_app.devices.compute import Compute, ComputeSettings
from fedllm_app.devices.network import NetworkSettings, network_of

MANY = [f"client-{i}" for i in range(2000)]


def factors(**how):
    compute = Compute(ComputeSettings(step_s=2.0, **how), 7)
    return np.array([compute.step_s(client) / 2 for client in MANY])


def test_a_participant_takes_download_steps_and_upload():
    # 25 MB at 200 Mbps and 2.5 MB at 20 Mbps are a second each; 30 steps of 0.5 s are 15.
    network = network_of(NetworkSettings(preset="thesis"), 0, ComputeSettings(step_s=0.5))
    assert network.participant_seconds("a", 25_000_000, 2_500_000, 30) == pytest.approx(17.0)
    traffic = {"a": (25_000_000, None), "b": (0, None)}
    assert network.round_seconds(traffic, {"a": 30, "b": 40}) == pytest.approx(20.0)
    assert network.round_seconds(traffic) == pytest.approx(1.0)


def test_steps_alone_are_a_clock_and_nothing_is_none():
    alone = network_of(NetworkSettings(), 0, ComputeSettings(step_s=3.0))
    assert alone.participant_seconds("a", 10**9, 10**9, 2) == 6.0
    assert network_of(NetworkSettings(), 0, ComputeSettings()) is None


def test_a_log_normal_spread_has_the_key_as_its_median():
    logs = np.log(factors(spread=0.5))
    assert np.median(logs) == pytest.approx(0, abs=0.05)
    assert logs.std() == pytest.approx(0.5, rel=0.05)


def test_a_ratio_is_of_the_slowest_to_the_fastest():
    found = factors(ratio=4.0)
    assert found.min() >= 0.5 and found.max() <= 2.0
    assert found.max() / found.min() == pytest.approx(4, rel=0.02)
    assert np.median(np.log(found)) == pytest.approx(0, abs=0.05)
    assert np.all(factors() == 1)


def test_who_is_slow_stays_slow_and_another_seed_has_others():
    one, same, other = (
        Compute(ComputeSettings(step_s=1.0, spread=1.0), seed).step_s("ann") for seed in (1, 1, 2)
    )
    assert one == same != other


def test_figures_of_a_file_hold_as_they_are(tmp_path):
    file = tmp_path / "speeds.csv"
    file.write_text("step-s,client\n9.5,ann\n,bob\n")
    compute = Compute(ComputeSettings(step_s=2.0, ratio=4.0, file=str(file)), 0)
    assert compute.step_s("ann") == 9.5
    assert math.isclose(compute.seconds("ann", 4), 38)
    assert compute.step_s("bob") == Compute(ComputeSettings(step_s=2.0, ratio=4.0), 0).step_s("bob")


@pytest.mark.parametrize("cell", ["0", "-1", "soon", "inf"])
def test_a_step_of_no_time_is_refused_with_its_line(tmp_path, cell):
    file = tmp_path / "speeds.csv"
    file.write_text(f"client,step-s\nann,1\nbob,{cell}\n")
    with pytest.raises(ConfigError, match=r"compute.file .* line 3: step-s is .* compute.step-s"):
        Compute(ComputeSettings(step_s=1.0, file=str(file)), 0)
