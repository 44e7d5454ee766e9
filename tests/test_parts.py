"""What a device opens: data, model and home of its own, for jobs of its own client."""

import numpy as np
import pytest

from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError, WireError
from fedllm_app.parts import Parts
from fedllm_app.place import Place

ANN = {"client-id": "ann", "data-path": "/data/ann.jsonl"}


@pytest.mark.parametrize("train", ["embedded", "/home/ann/private.jsonl"])
def test_a_device_plays_no_client_of_a_simulation(train):
    config = RunConfig.parse({"data.train": train, "model.source": "/models/minilm"})
    for node in (ANN, {"partition-id": 0, "num-partitions": 2}, {}):
        with pytest.raises(ConfigError, match="opens no data but what its own"):
            Place.of(config, node)
    assert Place.of(config).client == ""


@pytest.mark.parametrize("source", ["/models/minilm", "models/mine", "org/model-of-a-hub"])
def test_a_device_opens_and_downloads_no_model_but_its_own(source):
    keys = {"data.train": "node", "data.labels": "3", "model.source": source}
    with pytest.raises(ConfigError, match=f'expected model-path, or allow-models="{source}"'):
        Place.of(RunConfig.parse(keys), ANN | {"allow-models": "org/model, other/one"})
    allowed = ANN | {"allow-models": f"other/one, {source}"}
    assert Place.of(RunConfig.parse(keys), allowed).model == ""
    own = ANN | {"model-path": "/m"}
    assert Place.of(RunConfig.parse(keys), own).model == "/m"
    keys["model.tokenizer"] = "org/tokenizer"
    with pytest.raises(ConfigError, match=r"model\.tokenizer is 'org/tokenizer'; this device"):
        Place.of(RunConfig.parse(keys), own)
    assert Place.of(RunConfig.parse(keys), own | {"tokenizer-path": "/t"}).tokenizer == "/t"


def test_a_device_does_no_job_of_another_client(tiny, tmp_path):
    keys = tiny.keys()
    data = keys["data.train"]
    config = RunConfig.parse(keys | {"data.train": "node", "data.labels": "sky,water,stone"})
    place = Place(tmp_path, data=data, model=keys["model.source"], client="ann")
    device = Parts(config, place).device(tmp_path)
    assert next(device.batches("ann", 4, np.random.default_rng(0)))["labels"].shape == (4,)
    with pytest.raises(WireError, match="the job is of client 'bob'; this is 'ann'"):
        device.batches("bob", 4, np.random.default_rng(0))
