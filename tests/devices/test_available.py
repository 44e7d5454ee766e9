"""Who is there in a round: each client as often as its class is available."""

from collections import Counter

import pytest

from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError
from fedllm_app.devices.available import everybody, present_of
from fedllm_app.devices.fleet import DeviceSettings, Fleet
from fedllm_app.devices.profile import UNITS, read_profile
from fedllm_app.play import run_local
from fedllm_app.run.metrics import read_lines
from fedllm_app.study.command import network_for, predictor

COUNTS = dict.fromkeys((f"client-{i}" for i in range(200)), 3)


def classes(folder, **shares):
    """Write a class for each share of the time, and return keys of a fleet of half and half."""
    for name, share in shares.items():
        figures = {key: (1e9, unit) for key, (unit, _) in UNITS.items()}
        figures["available"] = (share, "share")
        text = f'name = "{name}"\n' + "".join(
            f'[{key}]\nvalue = {value}\nunit = "{unit}"\nkind = "assumed"\nsource = "a test"\n'
            for key, (value, unit) in figures.items()
        )
        (folder / f"{name}.toml").write_text(text)
        assert read_profile(folder / f"{name}.toml")["available"] == share
    return {
        "fleet": ",".join(f"{name}={1 / len(shares)}" for name in shares),
        "files": ",".join(str(folder / f"{name}.toml") for name in shares),
    }


def test_a_class_is_there_for_its_share_of_the_rounds(tmp_path):
    fleet = Fleet(DeviceSettings(**classes(tmp_path, seldom=0.1, often=0.75), available=True), 0)
    there = present_of(fleet, COUNTS, 0)
    rounds = [there(COUNTS, t) for t in range(1, 101)]
    seen = Counter(fleet.of(client).name for found in rounds for client in found)
    size = fleet.counts(COUNTS)
    assert seen["seldom"] / size["seldom"] / 100 == pytest.approx(0.1, abs=0.02)
    assert seen["often"] / size["often"] / 100 == pytest.approx(0.75, abs=0.02)
    # In one round a client is there or not, whoever else is asked for, in any order.
    again, some = present_of(fleet, COUNTS, 0), [*COUNTS][::-2]
    assert {*again(dict.fromkeys(some, 3), 7)} == {*rounds[6]} & {*some}
    assert present_of(fleet, COUNTS, 1)(COUNTS, 7).keys() != rounds[6].keys()


def test_where_all_are_away_one_is_awaited(tmp_path):
    fleet = Fleet(DeviceSettings(**classes(tmp_path, never=1e-9), available=True), 0)
    there = present_of(fleet, COUNTS, 0)
    assert [len(there(COUNTS, t)) for t in range(1, 4)] == [1, 1, 1]
    assert there({}, 1) == {}


def test_all_are_there_unless_asked_for(tmp_path):
    fleet = Fleet(DeviceSettings(**classes(tmp_path, never=1e-9)), 0)
    assert present_of(fleet, COUNTS, 0) is present_of(None, COUNTS, 0) is everybody


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"devices.available": True}, "no device is simulated"),
        (
            {"devices.available": True, "devices.fleet": "phone=1", "data.train": "node"},
            "a real device is there when it connects",
        ),
    ],
)
def test_it_is_refused_where_nothing_is_simulated(keys, told):
    with pytest.raises(ConfigError, match=f"devices.available is true and {told}"):
        RunConfig.parse(keys)


@pytest.mark.parametrize("pacing", ["sync", "async"])
def test_a_run_asks_those_that_are_there(tiny, tmp_path, pacing):
    own = classes(tmp_path, seldom=0.2, often=0.9)
    c = RunConfig.parse(tiny.keys("next-token") | {
        "run.home": str(tmp_path), "run.name": "away", "run.rounds": 6, "strategy.name": "dense",
        "partition.name": "iid", "partition.clients": 12, "round.clients": 4,
        "round.evaluate-every": 0, "client.steps": 1, "client.batch": 2, "lora.rank": 2,
        "round.pacing": pacing, "devices.available": True,
        **({"round.concurrency": 4, "round.goal": 2} if pacing == "async" else {}),
        **{f"devices.{key}": value for key, value in own.items()},
    })  # fmt: skip
    folder = run_local(c)
    predicts = predictor(c, network_for(c, 0.0, 0.0, 0.0, None))
    there = present_of(Fleet(c.devices, c.run.seed), predicts.counts, c.run.seed)
    asked = [line for line in read_lines(folder / "ledger.jsonl") if line["direction"] == "down"]
    assert all(line["client"] in there(predicts.counts, line["round"]) for line in asked)
    if pacing == "sync":
        plan = predicts.costs(c)
        last = [r for r in read_lines(folder / "metrics.jsonl") if "energy-j" in r][-1]
        assert plan.up_bytes.sum() == last["up-bytes"]
        assert plan.seconds.sum() == pytest.approx(last["simulated-s"], rel=1e-6)
