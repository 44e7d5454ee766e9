"""Local steps by device: as many in all, and everybody done at about the same time."""

import pytest
from toys import LAYOUT

from fedllm_app.config import RunConfig
from fedllm_app.core.effort import Effort
from fedllm_app.core.errors import ConfigError
from fedllm_app.core.plan import ClientPlan, RoundPlan, TopK
from fedllm_app.core.support import All
from fedllm_app.devices.compute import ComputeSettings
from fedllm_app.devices.fleet import DeviceSettings, Fleet
from fedllm_app.devices.network import NetworkSettings, network_of
from fedllm_app.devices.profile import UNITS
from fedllm_app.play import run_local
from fedllm_app.run.metrics import read_lines
from fedllm_app.server.balance import Balance, Took, lowered, shared_steps
from fedllm_app.server.methods.shares import tier_of, tiers_of
from fedllm_app.wire.codec import WireSettings

MIXED = "phone=0.5,pc=0.5"


def took(down, up, step):
    """Return the seconds of a client whose steps all last the same."""
    return Took(down, up, lambda steps: steps * step)


def whole(client, work):
    """Return what steps of one row each compute."""
    return Effort(*3 * (work.steps,))


def test_the_fast_take_the_steps_of_the_slow():
    # a takes 1 s a step, b a tenth: 11 tenths for every step of a.
    taken = shared_steps({"a": took(0.0, 0.0, 1.0), "b": took(0.0, 0.0, 0.1)}, 11, 100)
    assert taken == {"a": 2, "b": 20}
    assert shared_steps({"a": took(0.0, 0.0, 1.0), "b": took(0.0, 0.0, 1.0)}, 7, 28) == {
        "a": 7,
        "b": 7,
    }


def test_nobody_takes_more_than_the_limit_and_all_take_one():
    assert shared_steps({"a": took(0.0, 0.0, 1.0), "b": took(0.0, 0.0, 1e-9)}, 4, 6) == {
        "a": 2,
        "b": 6,
    }
    assert shared_steps({"a": took(99.0, 0.0, 1.0), "b": took(0.0, 0.0, 1.0)}, 4, 16) == {
        "a": 1,
        "b": 7,
    }
    assert shared_steps({"a": took(0.0, 0.0, 1.0)}, 5, 5) == {"a": 5}


def test_an_upload_is_halved_until_its_client_is_done_with_the_median_one():
    took_c = {"a": took(1.0, 8.0, 1.0), "b": took(1.0, 1.0, 1.0), "c": took(1.0, 64.0, 1.0)}
    steps = dict.fromkeys(took_c, 1)
    # b is done after 3 s, a after 10, c after 66: with a quarter after 18, with an eighth after 10.
    assert lowered(took_c, steps, 1 / 4) == {"c": 1 / 4}
    assert lowered(took_c, steps, 1 / 64) == {"c": 1 / 8}
    assert lowered(took_c, steps, 0.9) == {}


def test_a_slow_link_sends_less_and_what_is_no_choice_of_the_device_stays():
    fleet = Fleet(DeviceSettings(fleet=MIXED), 0)
    network = network_of(NetworkSettings(), 0, ComputeSettings(), fleet, lambda: 1.0)
    names = [str(i) for i in range(10, 21)]
    slow = {c for c in names if fleet.of(c).name == "phone"}
    assert 0 < len(slow) < len(names) / 2  # so that the median is a fast one
    balance = Balance(network, 1, 1.0, whole, least=1 / 8)
    for up in (TopK(0.5), All()):
        plan = RoundPlan({"all": ClientPlan(up=up)}, dict.fromkeys(names, "all"))
        made = balance.balanced(plan, LAYOUT, WireSettings(), 0, 1)
        ups = {c: made.groups[made.group_of[c]].up for c in names}
        assert made.groups["all"].up == up  # what is evaluated
        if up == All():
            assert set(ups.values()) == {up}
        else:
            assert {ups[c].density for c in names if c not in slow} == {0.5}
            assert all(1 / 16 <= ups[c].density < 0.5 for c in slow)


def test_a_plan_is_divided_into_groups_by_steps():
    fleet = Fleet(DeviceSettings(fleet=MIXED), 0)
    network = network_of(NetworkSettings(), 0, ComputeSettings(), fleet, lambda: 1e10)
    names = [str(i) for i in range(8)]
    plan = RoundPlan({"all": ClientPlan()}, dict.fromkeys(names, "all"))
    made = Balance(network, 6, 3.0, whole).balanced(plan, LAYOUT, WireSettings(), 0, 1)
    steps = {c: made.groups[made.group_of[c]].work.steps for c in names}
    assert sum(steps.values()) == 8 * 6 and max(steps.values()) == 11
    fast = {c for c in names if fleet.of(c).name == "pc"}
    assert min(steps[c] for c in fast) > max(steps[c] for c in set(names) - fast)
    assert plan.groups["all"] == made.groups["all"]  # what is evaluated


def test_tiers_follow_the_device_where_classes_differ():
    fleet = Fleet(DeviceSettings(fleet="server=0.3,phone=0.4,embedded=0.3"), 1)
    assert fleet.order == ["phone", "embedded", "server"]
    named = {fleet.of(str(i)).name: tiers_of(fleet)(str(i), 3) for i in range(40)}
    assert named == {"phone": 0, "embedded": 1, "server": 2}
    assert {tiers_of(fleet)(str(i), 2) for i in range(40)} == {0, 1}
    assert tiers_of(Fleet(DeviceSettings(fleet="phone=1"), 0)) is tier_of


def profile(name, flops):
    """Return a profile whose steps take far longer than its transfers."""
    figures = {key: (1.0 if unit != "Mbps" else 1000.0, unit) for key, (unit, _) in UNITS.items()}
    figures |= {"flops": (flops, "FLOP/s"), "memory": (1e12, "B")}
    return f'name = "{name}"\n' + "".join(
        f'[{key}]\nvalue = {value}\nunit = "{unit}"\nkind = "assumed"\nsource = "a test"\n'
        for key, (value, unit) in figures.items()
    )


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """Return the metrics of the same run with and without balance."""
    home, found = tmp_path_factory.mktemp("balance"), {}
    for name, flops in (("snail", 1e5), ("hare", 4e5)):
        (home / f"{name}.toml").write_text(profile(name, flops))
    files = ",".join(str(home / f"{name}.toml") for name in ("snail", "hare"))
    for balance in (False, True):
        keys = tiny.keys("next-token") | {
            "run.home": str(home), "run.name": f"balance-{balance}", "run.rounds": 3,
            "partition.name": "iid", "partition.clients": 6, "round.clients": 4,
            "round.evaluate-every": 0, "client.steps": 3, "client.batch": 2,
            "strategy.name": "photon", "devices.fleet": "snail=0.5,hare=0.5",
            "devices.files": files, "devices.balance": balance,
        }  # fmt: skip
        folder = run_local(RunConfig.parse(keys))
        found[balance] = (
            [r for r in read_lines(folder / "metrics.jsonl") if "energy-j" in r],
            read_lines(folder / "devices.jsonl"),
        )
    return found


def test_a_balanced_round_is_shorter_and_computes_as_much(runs):
    (even, _), (uneven, used) = runs[False], runs[True]
    assert len(uneven) == 3 and all(r["clients"] == 4 for r in uneven)
    assert uneven[-1]["flops"] == pytest.approx(even[-1]["flops"])
    assert uneven[-1]["simulated-s"] < 0.8 * even[-1]["simulated-s"]
    flops = {line["flops"] for line in used}
    assert len(flops) > 1


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"devices.balance": True}, "no device is simulated; set devices.fleet"),
        ({"devices.balance": True, "devices.fleet": MIXED}, "with client.steps = 0"),
        ({"devices.balance-most": 2.0}, "with devices.balance = false"),
    ],
)
def test_settings_that_divide_nothing_are_refused(keys, told):
    with pytest.raises(ConfigError) as error:
        RunConfig.parse(keys)
    assert told in str(error.value)
