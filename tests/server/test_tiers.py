"""Steps and batches follow the class of a device: in training, in the mean, and in the plan."""

import pytest

from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError
from fedllm_app.devices.fleet import DeviceSettings, Fleet
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.play import LocalTransport, run_local
from fedllm_app.run.metrics import read_lines
from fedllm_app.server.aggregate import Mean
from fedllm_app.study.command import network_for, predictor

FLEET = "phone=0.5,pc=0.5"


def config(tiny, folder, **own):
    return RunConfig.parse(tiny.keys("next-token") | {
        "run.home": str(folder), "run.name": "tiers", "run.rounds": 2, "strategy.name": "dense",
        "partition.name": "iid", "partition.clients": 7, "round.clients": 6, "client.steps": 1,
        "client.batch": 1, "round.evaluate-every": 0, "lora.rank": 4, "round.weights": "tokens",
        "round.clip": "off", "devices.fleet": FLEET,
    } | own)  # fmt: skip


def test_each_class_does_its_own_steps_and_batch(tiny, tmp_path, monkeypatch):
    c = config(tiny, tmp_path, **{"devices.tier-steps": "1,3", "devices.tier-batches": "2,1"})
    fleet, replies, weights = Fleet(DeviceSettings(fleet=FLEET), c.run.seed), [], []

    class Heard(LocalTransport):
        def poll(self):
            found = super().poll()
            replies.extend(found)
            return found

    fold = Mean.fold

    def noted(self, positions, values, weight=1, *how):
        weights.append(weight)
        fold(self, positions, values, weight, *how)

    monkeypatch.setattr(Mean, "fold", noted)
    folder = run_local(c, Heard)
    of = {r.client: fleet.of(r.client).name for r in replies}
    assert set(of.values()) == {"phone", "pc"} and len(replies) == 12
    done = {(of[r.client], r.metrics.steps) for r in replies}
    assert done == {("phone", 1), ("pc", 3)}
    counts = Parts(c.resolved(), Place.of(c)).counts()
    for r in replies:
        rows = min(2, counts[r.client]) if of[r.client] == "phone" else 3
        assert r.metrics.examples == rows
    # A reply counts by the tokens that it saw, and is not taken for one of client.steps.
    seen = [r.metrics.units for r in replies]
    assert sorted(w / max(weights) for w in weights) == pytest.approx(
        sorted(n / max(seen) for n in seen), rel=1e-3
    )
    costs = predictor(c, network_for(c, 0.0, 0.0, 0.0, None)).costs(c)
    last = [r for r in read_lines(folder / "metrics.jsonl") if "energy-j" in r][-1]
    assert costs.seconds.sum() == pytest.approx(last["simulated-s"], rel=1e-6)
    assert costs.energy_j.sum() == pytest.approx(last["energy-j"], rel=1e-6)


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({"devices.fleet": "", "devices.tier-steps": "1,2"}, "devices.tier-steps is '1,2' and no"),
        ({"devices.tier-batches": "1,0"}, "whole numbers from 1, such as '4,16'"),
        ({"devices.tier-steps": "1,2", "devices.balance": True}, "one of the two"),
        (
            {"client.reading": "stream", "devices.tier-steps": "1,2"},
            "expected at most client.steps times client.batch = 1",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(tiny, tmp_path, own, told):
    with pytest.raises(ConfigError, match=told):
        run_local(config(tiny, tmp_path, **own))
