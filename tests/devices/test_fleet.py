"""Which client is which device, and what a job costs it in seconds and joules."""

from pathlib import Path

import pytest

from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError
from fedllm_app.devices import profile
from fedllm_app.devices.compute import ComputeSettings
from fedllm_app.devices.fleet import DeviceSettings, Fleet
from fedllm_app.devices.meter import Meter, Usage, total
from fedllm_app.devices.network import NetworkSettings, network_of

NAMES = [f"client-{i}" for i in range(2000)]


def fleet(text="phone=0.6,embedded=0.4", seed=0, **more):
    """Return a fleet."""
    return Fleet(DeviceSettings(fleet=text, **more), seed)


def clock(own, flops=3.2e9, **network):
    """Return the clock of a fleet; one step of a phone takes a second."""
    return network_of(NetworkSettings(**network), 0, ComputeSettings(), own, lambda: flops)


def test_shares_are_dealt_out_by_the_seed_and_the_client_alone():
    counts = fleet().counts(NAMES)
    assert abs(counts["phone"] / 2000 - 0.6) < 0.04
    assert counts["phone"] + counts["embedded"] == 2000
    assert fleet().counts(NAMES[:50]) == fleet().counts(reversed(NAMES[:50]))
    assert [fleet().of(c).name for c in NAMES] != [fleet(seed=1).of(c).name for c in NAMES]


def test_a_file_says_it_of_single_clients(tmp_path):
    file = tmp_path / "fleet.csv"
    file.write_text("client,class\nalice,server\n")
    own = fleet("wearable=1", file=str(file))
    assert (own.of("alice").name, own.of("bob").name) == ("server", "wearable")
    file.write_text("client,class\nalice,toaster\n,pc\n")
    with pytest.raises(ConfigError) as error:
        fleet("wearable=1", file=str(file))
    assert "line 2: class is 'toaster'; expected any of" in str(error.value)
    assert "line 3: client is ''" in str(error.value)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"devices.fleet": "phone=0.6,pc=0.3"}, "shares that sum to 0.9; expected 1"),
        ({"devices.fleet": "toaster=1"}, "devices.fleet names 'toaster'; expected any of"),
        ({"devices.fleet": "phone"}, "devices.fleet has 'phone'; expected NAME=SHARE"),
        ({"devices.fleet": "phone=0.5,phone=0.5"}, "names phone twice"),
        ({"devices.files": "/no/such.toml"}, "cannot be read"),
        ({"devices.fleet": "phone=1", "compute.step-s": 1.0}, "beside devices.fleet; expected 0"),
        (
            {"devices.fleet": "phone=1", "devices.file": "/f.csv", "data.train": "node"},
            "devices.file is '/f.csv' with data.train = 'node'",
        ),
        (
            {"devices.fleet": "phone=1", "devices.balance": True, "data.train": "node"},
            "devices.balance is true with data.train = 'node'",
        ),
        (
            {"devices.fleet": "phone=1", "round.max-energy-j": 5.0, "data.train": "node"},
            "round.max-energy-j is 5 and no device is simulated",
        ),
        ({"round.max-energy-j": 5.0}, "no device is simulated"),
    ],
)
def test_a_wrong_fleet_is_refused_before_anything_loads(keys, told):
    with pytest.raises(ConfigError) as error:
        RunConfig.parse(keys)
    assert told in str(error.value)


def test_a_relative_profile_is_refused_also_where_it_happens_to_lie(tmp_path, monkeypatch):
    phone = (Path(profile.__file__).parent / "profiles" / "phone.toml").read_text()
    (tmp_path / "board.toml").write_text(phone.replace('name = "phone"', 'name = "board"'))
    monkeypatch.chdir(tmp_path)
    keys = {"devices.fleet": "board=1"}
    here = str(tmp_path / "board.toml")
    with pytest.raises(ConfigError, match=r"devices.files has 'board.toml'; expected an absolute"):
        RunConfig.parse(keys | {"devices.files": "board.toml"})
    with pytest.raises(ConfigError, match=r"devices.files has 'board.toml'; expected an absolute"):
        RunConfig.parse(keys | {"devices.files": f"{here}, board.toml"})
    assert RunConfig.parse(keys | {"devices.files": here}).devices.files == here


def test_seconds_and_joules_are_those_of_the_profile():
    phone, network = fleet("phone=1"), clock(fleet("phone=1"))
    used = Meter(phone, network).usage("a", 35_960_000, 11_220_000, amount=10, lasted_s=100)
    assert used.flops == 3.2e10
    assert used.compute_s == pytest.approx(10)
    assert used.down_s == pytest.approx(8 + 0.04)
    assert used.up_s == pytest.approx(8 + 0.04)
    assert used.wait_s == pytest.approx(100 - 26.08)
    assert used.energy_j == pytest.approx(10 * 4.2 + 16.08 * 1.5 + 73.92 * 0.3)
    assert network.participant_seconds("a", 35_960_000, 11_220_000, 10) == pytest.approx(26.08)
    assert total([used, Usage(flops=1)]).flops == 3.2e10 + 1


def test_a_client_that_nobody_waits_for_does_not_wait():
    used = Meter(fleet("phone=1"), clock(fleet("phone=1"))).usage("a", None, 10, amount=0)
    assert (used.wait_s, used.compute_s, used.down_s) == (0, 0, 0)


def test_links_that_the_keys_name_take_the_place_of_the_devices():
    own = clock(fleet("phone=1"), preset="thesis")
    assert own.link("a").up_mbps == 20
    assert clock(fleet("phone=1")).link("a").up_mbps == 11.22
