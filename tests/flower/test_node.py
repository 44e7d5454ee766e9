"""What a device allows of a run-config, before it imports anything that this names."""

import sys

import pytest

from fedllm_app.core import extend
from fedllm_app.core.errors import ConfigError
from fedllm_app.flower import node

MODULE = "raise RuntimeError('it was imported')\n"
DEVICE = {"client-id": "alice", "data-path": "/nowhere/alice.jsonl"}
OWN = {"data.train": "node", "data.labels": "2", "model.source": "some/model"}


@pytest.fixture(autouse=True)
def _everything_is_allowed_again():
    yield
    extend.allow(None)


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """Put a module on the path that must not be imported."""
    (tmp_path / "trap.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "trap:THING"
    sys.modules.pop("trap", None)


@pytest.mark.parametrize("key", ["strategy.name", "client.rule", "server.optimizer"])
def test_a_device_imports_no_module_that_its_node_config_does_not_allow(trap, key):
    with pytest.raises(ConfigError) as refused:
        node.holdings(OWN | {key: trap}, DEVICE)
    assert f"{key} is 'trap:THING'; this device does not import 'trap'" in str(refused.value)
    assert 'allow-modules="trap"' in str(refused.value)
    assert "it was imported" not in str(refused.value)
    assert "trap" not in sys.modules


@pytest.mark.parametrize("config", [{}, {"partition-id": 0, "num-partitions": 2}])
def test_a_node_that_is_no_worker_of_a_simulation_is_a_device(trap, config):
    with pytest.raises(ConfigError, match="does not import 'trap'"):
        node.holdings({"strategy.name": trap}, config)
    with pytest.raises(ConfigError, match="opens no data but what its own"):
        node.holdings({"model.source": "some/model"}, config)


def test_nothing_of_ours_is_loaded_by_name_either():
    with pytest.raises(ConfigError, match=r"does not import 'fedllm_app\.core\.files'"):
        node.holdings(OWN | {"server.optimizer": "fedllm_app.core.files:replacing"}, DEVICE)


def test_what_is_allowed_is_imported(trap):
    with pytest.raises(ConfigError, match="RuntimeError: it was imported"):
        node.holdings(OWN | {"strategy.name": trap}, DEVICE | {"allow-modules": "other, trap"})


def test_a_simulation_imports_what_it_is_told(trap, monkeypatch):
    monkeypatch.setattr(node, "in_simulation", lambda: True)  # tests/parity plays a real one
    with pytest.raises(ConfigError, match="RuntimeError: it was imported"):
        node.holdings({"strategy.name": trap}, {"partition-id": 0, "num-partitions": 2})


def test_a_rule_of_a_plan_is_held_against_the_same_list(trap):
    from fedllm_app.core.rules import rule_of

    extend.allow([])
    with pytest.raises(ConfigError, match="does not import 'trap'"):
        rule_of(trap)
    assert rule_of("tensors")


def test_the_class_of_a_device_travels_with_its_examples(tiny, tmp_path):
    own = tmp_path / "alice.jsonl"
    own.write_text((tiny.root / "text" / "train.jsonl").read_text())
    keys = tiny.keys() | {"data.train": "node", "data.labels": "sky,water,stone"}
    model = {"model-path": str(tiny.root / "bert"), "tokenizer-path": str(tiny.root / "bert")}
    keys["model.source"] = "some/model"
    place = {"client-id": "alice", "data-path": str(own), "home": str(tmp_path)} | model
    held = node.holdings(keys, place | {"device-class": "phone"})
    assert held.counts == {"alice": 48}
    assert held.profiles == {"alice": {"class": "phone"}}
    assert node.holdings(keys, place).profiles == {}
