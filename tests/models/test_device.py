"""Where the model computes: chosen by a key, moved once, and the same learning on each device."""

import numpy as np
import pytest
import torch

from fedllm_app.client.kept import Kept
from fedllm_app.client.train import train
from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError
from fedllm_app.core.job import Job
from fedllm_app.core.plan import ClientPlan
from fedllm_app.core.support import Derived, Draw, expand
from fedllm_app.models.backbone import device_of
from fedllm_app.models.settings import ModelSettings
from fedllm_app.models.suits import check_reads
from fedllm_app.models.trainable import lies_on
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.play import run_local
from fedllm_app.report.run import read_run


@pytest.mark.parametrize(("asked", "seen", "taken"), [
    ("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu"), ("cuda", True, "cuda"),
])  # fmt: skip
def test_the_device_is_the_one_asked_for_or_the_best_there_is(monkeypatch, asked, seen, taken):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen)
    assert device_of(ModelSettings(device=asked)) == taken


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"model.device is 'cuda'.*client-resources-num-gpus"):
        device_of(ModelSettings(device="cuda"))


@pytest.mark.parametrize("train", ["lora", "full"])
def test_a_moved_model_is_laid_out_there_whole(trainable, train):
    model = trainable("bert", train=train)
    names = list(model.layout.unflatten(model.flat))
    moved = model.to("meta")  # a device of any machine that is not the CPU
    tensors = [*model.model.parameters(), *model.model.buffers(), model.flat, model.grad]
    assert moved is model
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert {p.grad.device.type for p in model.model.parameters() if p.requires_grad} == {"meta"}
    assert list(model.layout.unflatten(model.flat)) == names


def test_where_it_is_already_nothing_moves(trainable):
    model = trainable("bert")
    flat = model.flat
    assert model.to("cpu").flat is flat


def test_what_is_on_a_gpu_already_is_not_moved():
    """A base in few bits is loaded there: it cannot be moved, and the first GPU is `cuda`."""
    assert lies_on(torch.device("cuda:0"), "cuda") and lies_on(torch.device("cuda:1"), "cuda:1")
    assert not lies_on(torch.device("cuda:0"), "cuda:1")
    assert not lies_on(torch.device("cpu"), "cuda") and lies_on(torch.device("cpu"), "cpu")


def test_a_model_is_tried_where_its_weights_are(trainable, monkeypatch):
    model = trainable("llama").to("meta").backbone
    seen = []
    monkeypatch.setattr(model, "forward", lambda **batch: seen.append(batch))

    class Words:
        pad_token_id = 0

        def __call__(self, text):
            return {"input_ids": [3] * len(text.split())}

    check_reads(model, Words())
    assert {tensor.device.type for tensor in seen[0].values()} == {"meta"}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_never_mixes_devices(tiny, tmp_path, monkeypatch, optimizer):
    """On a device without data every step runs but the last, which reads a number: stood in for."""
    keys = {"run.name": "meta", "client.optimizer": optimizer, "client.keep-optimizer": True,
            "client.clip-norm": 1.0, "partition.clients": 6}  # fmt: skip
    images = tiny.keys("image-classification")  # text models look into their masks
    parts = Parts(RunConfig.parse(images | keys), Place(tiny.home))
    device = parts.device(tmp_path)
    parts.model.to("meta")
    monkeypatch.setattr(torch.Tensor, "cpu", lambda t: torch.zeros(t.shape, dtype=t.dtype))
    monkeypatch.setattr("fedllm_app.client.train.float", lambda _: 0.0, raising=False)
    half = Derived("random-tensors", {"share": 0.5})
    region = expand(half, parts.model.layout, Draw(0))
    for within in (None, np.arange(0, parts.model.layout.size, 3), region):
        kept = Kept()
        for job in (Job(1, "0"), Job(2, "0")):
            trained = train(device, job, ClientPlan(), within, kept, {})
            kept = Kept(trained.optimizer)
            assert trained.metrics.steps > 0
            assert {tensor.device.type for tensor in kept.optimizer.values()} == {"cpu"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("own", [
    {"strategy.name": "floss", "client.keep-optimizer": True, "strategy.error-feedback": True},
    {"strategy.name": "sparse-adapter", "client.optimizer": "adamw", "client.keep-optimizer": True},
    {"strategy.name": "hetlora", "strategy.tier-ranks": "1,2"},
    {"model.train": "full", "strategy.name": "fedavg", "client.clip-norm": 1.0},
])  # fmt: skip
def test_a_run_learns_the_same_on_a_gpu(tiny, own):
    ends = {}
    for device in ("cpu", "cuda"):
        keys = tiny.keys() | {"partition.clients": 6, "run.rounds": 4, "lora.rank": 2} | own
        more = {"model.device": device, "run.name": f"on-{device}-{own.get('strategy.name')}"}
        folder = run_local(RunConfig.parse(keys | more | {"lora.dropout": 0.0}))
        ends[device] = [value for _, value in read_run(folder).evaluations("loss")]
    np.testing.assert_allclose(ends["cuda"], ends["cpu"], rtol=1e-3)
