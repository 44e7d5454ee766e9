"""What a device opens: data, model and home of its own, for jobs of its own client."""

import numpy as np
import pytest

from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError, WireError
from fedllm_app.parts import Parts, Place

ANN = {"client-id": "ann", "data-path": "/data/ann.jsonl"}


@pytest.mark.parametrize("train", ["embedded", "/home/ann/private.jsonl"])
def test_a_device_plays_no_client_of_a_simulation(train):
    config = RunConfig.parse({"data.train": train, "model.source": "/models/minilm"})
    with pytest.raises(ConfigError, match="this device has data of its own"):
        Place.of(config, ANN)
    assert Place.of(config, {"partition-id": 0, "num-partitions": 2}).client == ""


def test_a_device_opens_no_path_of_the_servers(tmp_path, monkeypatch):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for source in ("/models/minilm", "models/mine"):
        keys = {"data.train": "node", "data.labels": "3", "model.source": source}
        with pytest.raises(ConfigError, match="opens only paths of its own"):
            Place.of(RunConfig.parse(keys), ANN)
        assert Place.of(RunConfig.parse(keys), ANN | {"model-path": "/m"}).model == "/m"
    keys["model.source"] = "org/model-of-a-hub"
    assert Place.of(RunConfig.parse(keys), ANN).model == ""


def test_a_device_does_no_job_of_another_client(tiny, tmp_path):
    keys = tiny.keys()
    data = keys["data.train"]
    config = RunConfig.parse(keys | {"data.train": "node", "data.labels": "sky,water,stone"})
    place = Place(tmp_path, data=data, model=keys["model.source"], client="ann")
    device = Parts(config, place).device(tmp_path)
    assert next(device.batches("ann", 4, np.random.default_rng(0)))["labels"].shape == (4,)
    with pytest.raises(WireError, match="the job is of client 'bob'; this is 'ann'"):
        device.batches("bob", 4, np.random.default_rng(0))


def test_a_model_is_checked_without_weights_or_data(tiny, tmp_path):
    keys = tiny.keys() | {"data.train": "/not/there.jsonl", "run.home": str(tmp_path)}
    Parts(config := RunConfig.parse(keys), Place.of(config)).check_model()
    for key, value, words in (
        ("task.max-tokens", 33, "task.max-tokens is 33; expected at most 32"),
        ("lora.rank", 64, "lora.rank is 64; expected at most 16"),
        ("lora.targets", "q_proj", "lora.targets is 'q_proj'"),
        ("model.source", str(tiny.root / "dinov2"), "no tokenizer at"),
    ):
        config = RunConfig.parse(keys | {key: value})
        with pytest.raises(ConfigError, match=words):
            Parts(config, Place.of(config)).check_model()
