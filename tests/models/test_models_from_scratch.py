"""Models from scratch: their sizes, their start, their tokenizer, and what a run makes of them."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from fedllm_app.config import RunConfig
from fedllm_app.config.inputs import input_problems
from fedllm_app.core.errors import CheckpointError, ConfigError
from fedllm_app.models import attention
from fedllm_app.models.scratch import PUBLISHED_VOCABULARY, SHAPES, scratch_config
from fedllm_app.models.vocabulary import END, PAD, train, trained_tokenizer
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.play import run_local

# Parameters of the MPT models of these shapes, whose MLP has two matrices of width 4 d.
MPT = {"75m": 74.1e6, "125m": 123.6e6, "1.3b": 1.311e9, "3b": 2.646e9, "7b": 6.649e9}
FULL = {"model.train": "full", "model.tokenizer": "train"}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_the_parameters_that_its_name_says(name):
    shape, vocabulary = SHAPES[name], PUBLISHED_VOCABULARY if name in MPT else 4096
    with torch.device("meta"):
        model = LlamaForCausalLM(scratch_config(shape, vocabulary, 2048, {}))
    count = sum(p.numel() for p in model.parameters())  # tied tensors come once
    assert count == shape.parameters(vocabulary)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert count == pytest.approx(MPT.get(name, count), rel=0.005)
    assert count == pytest.approx(shape.nominal, rel=0.12)


def own(tiny, home, **more):
    changed = {key.replace("__", ".").replace("_", "-"): value for key, value in more.items()}
    return RunConfig.parse(
        tiny.keys("next-token")
        | {"run.home": str(home), "run.name": "scratch", "run.rounds": 2}
        | {"model.source": "scratch:tiny", "model.vocabulary": 300, "model.train": "full"}
        | {"partition.clients": 3, "round.clients": 2, "client.steps": 2, "client.batch": 4}
        | {"strategy.name": "fedavg", "server.optimizer": "sgd", "server.lr": 1.0}
        | {"client.optimizer": "adamw", "client.lr": 1e-3, "client.decay-all": False}
        | {"client.keep-optimizer": True, "client.micro-batch": 3, "client.autocast": "bfloat16"}
        | {"client.clip-norm": 1.0, "model.checkpointing": True, "model.tokenizer": "train"}
        | changed
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def played(tiny, home):
    """Return the folder of a whole run from scratch."""
    return run_local(own(tiny, home))


def test_a_run_from_scratch_ends_in_a_model_of_plain_transformers(played):
    folder = played / "model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    begun = tokenizer("the sun", return_tensors="pt")
    made = model.generate(**begun, max_new_tokens=5, do_sample=False)
    read = begun["input_ids"].shape[1]
    assert 0 < made.shape[1] - read <= 5
    assert tokenizer.decode(made[0, :read]) == "the sun"
    # One tensor for embeddings and output: it is saved once and tied again.
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    size = (folder / "model.safetensors").stat().st_size
    assert size < 4 * sum(p.numel() for p in model.parameters()) + 10_000
    assert model.config.max_position_embeddings == 16
    assert (model.config.eos_token_id, model.config.vocab_size) == (0, len(tokenizer))
    assert attention.NAME not in (folder / "config.json").read_text()
    about = json.loads((folder / "fedllm.json").read_text())
    assert about["base"] == "scratch:tiny"
    assert "scratch:tiny" in (folder / "README.md").read_text()


def test_a_run_that_goes_on_refuses_another_tokenizer(tiny, home, played, monkeypatch):
    from fedllm_app import parts

    other = train(iter([["quite other words about quite other things"] * 9]), 300)
    folder = home / "other"
    other.save_pretrained(folder)
    monkeypatch.setattr(parts, "trained_tokenizer", lambda *_: folder)
    with pytest.raises(CheckpointError, match=r"the tokenizer \(model\.tokenizer, data\.train\)"):
        run_local(own(tiny, home, run__rounds=3))


def test_a_run_that_goes_on_ends_with_the_bits_of_one_that_never_stopped(tiny, home, played):
    """With kept optimizers, batches in parts, mixed precision and activations computed again."""
    more = {"run__rounds": 4}
    on = run_local(own(tiny, home, **more))
    straight = run_local(own(tiny, home, run__name="straight", **more))
    assert on == played
    ends = [(folder / "model" / "model.safetensors").read_bytes() for folder in (on, straight)]
    assert ends[0] == ends[1]


def test_every_process_draws_the_same_start(tiny, home, played):
    config = own(tiny, home)
    here = Parts(config, Place(home)).initial
    code = (
        "import sys, hashlib\n"
        "from pathlib import Path\n"
        "from fedllm_app.config import RunConfig\n"
        "from fedllm_app.parts import Parts, Place\n"
        "import json\n"
        "c = RunConfig.parse(json.loads(sys.argv[1]))\n"
        # A device with a tokenizer of its own folder, and nothing else of the server's.
        "place = Place(Path(sys.argv[2]), data=sys.argv[4], tokenizer=sys.argv[3], client='ann')\n"
        "print(hashlib.blake2b(Parts(c, place).initial.tobytes()).hexdigest())\n"
    )
    tokenizer = str(played / "model")
    keys = config.flat() | {"data.train": "node", "model.tokenizer": tokenizer}
    words = [sys.executable, "-c", code, json.dumps(keys), str(home / "device"), tokenizer]
    words += [config.data.train]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    import hashlib

    assert done.stdout.strip() == hashlib.blake2b(here.tobytes()).hexdigest(), done.stderr[-2000:]
    seeded = Parts(own(tiny, home, run__seed=1), Place(home)).initial
    assert not np.array_equal(here, seeded)


def test_a_tokenizer_that_is_not_there_is_said_before_the_run(tiny, home):
    assert input_problems(own(tiny, home)) == []
    (found,) = input_problems(own(tiny, home, model__tokenizer="/nowhere"))
    assert "no tokenizer at '/nowhere'" in found


def test_a_device_needs_no_file_for_a_model_from_scratch():
    keys = {"data.train": "node", "model.source": "scratch:75m", "model.train": "full"}
    keys |= {"task.name": "next-token", "model.tokenizer": "org/tokenizer", "run.name": "x"}
    node = {"client-id": "ann", "data-path": "/data/ann.jsonl"}
    allowed = Place.of(RunConfig.parse(keys), node | {"allow-models": "org/tokenizer"})
    assert (allowed.model, allowed.tokenizer) == ("", "")
    with pytest.raises(ConfigError, match=r"model\.tokenizer is 'org/tokenizer'; this device"):
        Place.of(RunConfig.parse(keys), node)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.source": "scratch:huge"}, "model.source is 'scratch:huge'; expected one of"),
        ({"model.train": "lora"}, "model.train is 'lora' with model.source = 'scratch:tiny'"),
        ({"model.tokenizer": ""}, "model.tokenizer is '' with model.source = 'scratch:tiny'"),
        ({"model.source": "org/x"}, "whose weights belong to a tokenizer of its own"),
        ({"data.train": "node"}, "model.tokenizer is 'train' with data.train = 'node'"),
        ({"task.name": "sequence-classification"}, "which predicts the next token"),
    ],
)
def test_what_cannot_be_is_refused_in_words(changes, said):
    keys = {"task.name": "next-token", "model.source": "scratch:tiny", **FULL}
    with pytest.raises(ConfigError) as refused:
        RunConfig.parse(keys | changes)
    assert any(said in line for line in str(refused.value).splitlines())


def test_a_trained_tokenizer_reads_back_what_it_writes(tiny, tmp_path):
    texts = ["the tide comes in", "the tide goes out\n\n  twice", "naïve 海 🙂 \t"] * 20
    one = train(iter([texts]), 290)
    assert len(one) == 290
    for text in texts[:3]:
        assert one.decode(one(text)["input_ids"]) == text
    assert (one.eos_token, one.pad_token, one.eos_token_id) == (END, PAD, 0)
    again = train(iter([[text] for text in texts]), 290)  # in other batches
    assert again.backend_tokenizer.to_str() == one.backend_tokenizer.to_str()


def test_a_tokenizer_is_trained_once_for_a_text_and_a_size(tiny, tmp_path, monkeypatch):
    c = own(tiny, tmp_path)
    first = trained_tokenizer(c.data, c.task, 300, tmp_path)
    monkeypatch.setattr("fedllm_app.models.vocabulary.train", lambda *_: pytest.fail("again"))
    assert trained_tokenizer(c.data, c.task, 300, tmp_path) == first
    longer = own(tiny, tmp_path, task__max_tokens=32)
    assert trained_tokenizer(longer.data, longer.task, 300, tmp_path) == first
    with pytest.raises(pytest.fail.Exception, match="again"):
        trained_tokenizer(c.data, c.task, 299, tmp_path)


def test_an_end_token_that_pads_still_learns(tiny, home, tmp_path):
    """A tokenizer without a pad token pads with its end token: transformers would freeze it."""
    tokenizer = train(iter([["the sun and the moon"] * 9]), 270)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    config = own(tiny, home, model__tokenizer=str(tmp_path / "tokenizer"))
    model = Parts(config, Place(home)).model.backbone
    end = model.config.eos_token_id
    assert model.config.pad_token_id == end
    # The gradient by what is read, not by what is predicted: another head stands in.
    out = model.model(input_ids=torch.tensor([[5, end, 7]])).last_hidden_state
    (grad,) = torch.autograd.grad(out.sum(), [model.model.embed_tokens.weight])
    assert grad[end].abs().sum() > 0
