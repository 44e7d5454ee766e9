"""Local training on a tiny BERT: what only a real model, or a real process, can get wrong."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from asking import DENSE, deltas, request_for
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from toys import P, bits

from fedllm_app import parts as parts_module
from fedllm_app.client.answer import answer
from fedllm_app.client.kept import Kept
from fedllm_app.client.settings import ClientSettings
from fedllm_app.client.train import train
from fedllm_app.config import RunConfig
from fedllm_app.core.job import Job
from fedllm_app.core.plan import ClientPlan, Work
from fedllm_app.core.support import All, Positions
from fedllm_app.flower.message import pack_request, unpack_holdings, unpack_replies
from fedllm_app.models import vocabulary
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.play import run_local
from fedllm_app.wire.codec import WireSettings

ONES = {"a": np.ones(P, np.float32)}


@pytest.fixture(scope="module")
def bert(tiny):
    """Return the parts of a run over the tiny BERT with LoRA dropout."""
    config = RunConfig.parse(
        tiny.keys()
        | {
            "partition.clients": 6, "client.lr": 0.1, "client.batch": 4, "lora.rank": 2,
            "lora.dropout": 0.3, "wire.up-values": "int8",
        }
    )  # fmt: skip
    return Parts(config, Place(tiny.home))


@pytest.fixture
def device(bert, tmp_path):
    return bert.device(tmp_path)


def updates(device, *jobs, plan=DENSE, values=None, sent=None):
    model = device.model
    values = device.initial if values is None else values
    request = request_for(model, values, *jobs, plan=plan, sent=sent)
    return [reply.vectors["params"].tobytes() for reply in answer(device, request)]


def test_the_delta_is_against_the_masked_copy_over_all_coordinates(device):
    device = replace(device, wire=WireSettings())
    size = device.model.layout.size
    values, sent = device.initial + 0.5, np.arange(0, size, 3)
    plan = ClientPlan(down=Positions(sent), fill="zero", up=All())
    request = request_for(device.model, values, Job(1, "0"), plan=plan, sent=sent)
    (update,) = deltas(device, request)
    copy = np.zeros(size, np.float32)
    copy[sent] = values[sent]
    assert bits(update.values) == bits(copy - device.model.values())
    # What was not sent started from zero, not from the server's half, and is trained.
    rest = np.setdiff1d(np.arange(size), sent)
    assert np.abs(update.values[rest]).max() < 0.25
    assert (update.values[rest] != 0).mean() > 0.5


def test_the_same_job_gives_the_same_bytes_and_another_client_leaves_no_trace(device):
    first = updates(device, Job(3, "0"))
    again = updates(device, Job(3, "1"), Job(3, "0"), Job(3, "2"), Job(3, "0"))
    assert again[1] == again[3] == first[0]
    assert len(set(again)) == 3
    # Nor does another draw from torch's generator in between.
    torch.rand(7)
    assert updates(device, Job(3, "0")) == first


def test_another_round_or_seed_is_another_draw(bert, device, tmp_path):
    first, second = updates(device, Job(3, "0")), updates(device, Job(4, "0"))
    assert first != second
    device = replace(device, seed=1)
    assert updates(device, Job(3, "0")) != first


def test_dropout_is_drawn_from_seed_round_and_client(device):
    def losses(job):
        plan = ClientPlan(work=Work(steps=1))
        return train(device, job, plan, None, Kept(), {}).metrics.loss_sum

    def loss(*job):
        device.model.load(device.initial + 0.3)
        return losses(Job(*job))

    one_batch = next(iter(device.batches("0", 4, np.random.default_rng(0))))
    device = replace(device, batches=lambda c, b, r: iter([one_batch]))
    drawn = [loss(1, "0"), loss(1, "0"), loss(2, "0"), loss(1, "1")]
    # The batch is the same; only the dropout differs.
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3


def test_masked_training_of_a_model_moves_nothing_outside(device):
    size = device.model.layout.size
    sent = np.arange(1, size, 2)
    for settings in (
        ClientSettings(lr=0.1, momentum=0.9, weight_decay=0.1, steps=3, batch=4),
        ClientSettings(lr=0.01, optimizer="adamw", weight_decay=0.1, steps=3, batch=4),
    ):
        device = replace(device, settings=settings)
        device.model.load(device.initial)
        train(device, Job(1, "0"), ClientPlan(), sent, Kept(), {})
        moved = np.flatnonzero(device.model.values() != device.initial)
        assert set(moved) <= set(sent.tolist())
        assert len(moved) > len(sent) / 2


def test_frozen_tensors_stay_as_they_are(device, bert):
    before = bert.model.fingerprint
    state = {
        name: bits(tensor)
        for name, tensor in bert.model.backbone.state_dict().items()
        if ".lora_" not in name and "modules_to_save" not in name
    }
    updates(device, Job(1, "0"), Job(1, "1"))
    after = bert.model.backbone.state_dict()
    assert all(bits(after[name]) == value for name, value in state.items())
    assert bert.model.fingerprint == before


def test_one_backbone_per_process_whatever_the_number_of_clients(tiny, monkeypatch):
    built = []
    load = parts_module.load_backbone

    def counted(*args, **kwargs):
        built.append(1)
        return load(*args, **kwargs)

    monkeypatch.setattr(parts_module, "load_backbone", counted)
    config = RunConfig.parse(
        tiny.keys() | {"run.name": "one-backbone", "run.rounds": 2, "partition.clients": 12,
                       "round.clients": 6, "lora.rank": 2}
    )  # fmt: skip
    run_local(config)
    assert len(built) == 1


def test_the_client_app_builds_once_and_swaps_values_only(tiny, monkeypatch):
    import client_app
    from fedllm_app.flower import node

    monkeypatch.setattr(node, "in_simulation", lambda: True)
    built = []
    load = parts_module.load_backbone
    monkeypatch.setattr(
        parts_module, "load_backbone", lambda *a, **k: built.append(1) or load(*a, **k)
    )
    names = ("_run_id", "_node_id", "_task_id")
    for name in names:
        monkeypatch.setattr(TaskIdentity, name, 1)
    flat = (
        RunConfig().flat() | tiny.keys() | {"partition.clients": 6, "lora.rank": 2, "run.seed": 9}
    )
    contexts = [
        Context(1, node, {"partition-id": node, "num-partitions": 2}, RecordDict(), flat)
        for node in (0, 1)
    ]

    def ask(kind, content, node):
        message = Message(content, dst_node_id=1, message_type=kind)
        return client_app.app(message, contexts[node])

    held = unpack_holdings(ask("query", RecordDict(), 0).content)
    assert held.federation == 2
    assert sum(held.counts.values()) == 48
    parts = Parts(RunConfig.parse(flat), Place(tiny.home))
    request = request_for(parts.model, parts.initial, *(Job(1, str(i)) for i in range(6)))
    before = len(built)
    answers = [unpack_replies(ask("train", pack_request(request), n).content) for n in (0, 1, 0)]
    assert len(built) == before + 1
    assert {len(a) for a in answers} == {6}
    # It does not matter which node plays a client, or after whom.
    assert len({b"".join(r.vectors["params"].tobytes() for r in a) for a in answers}) == 1
    with pytest.raises(Exception, match="no payload"):
        ask("train", RecordDict({"words": ConfigRecord({"json": "{}"})}), 0)


def test_a_device_with_another_tokenizer_of_equal_size_trains_nothing(tiny, tmp_path):
    keys = tiny.keys("next-token") | {"model.source": "scratch:tiny", "model.train": "full"}
    keys |= {"model.tokenizer": "train", "model.vocabulary": 280, "client.steps": 1}
    config = RunConfig.parse(keys | {"partition.clients": 6})
    here = Parts(config, Place(tiny.home))
    words = ["quite other words about quite other things, said by other people"] * 9
    other = vocabulary.train(iter([words]), len(here.tokenizer))
    assert len(other) == len(here.tokenizer)
    other.save_pretrained(tmp_path / "other")
    there = Parts(config, Place(tiny.home, tokenizer=str(tmp_path / "other")))
    request = request_for(here.model, here.initial, Job(1, "0"))
    (fine,) = answer(here.device(tmp_path / "here"), request)
    (reply,) = answer(there.device(tmp_path / "there"), request)
    assert (fine.error, reply.reason) == ("", "foreign")
    assert "compare model.source, model.dtype and model.tokenizer" in reply.error
