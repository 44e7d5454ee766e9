"""What is trained, by which names, from which seed, in which type."""

import pytest
import torch

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.lora import lora_rank_axis
from fedllm_app.models.settings import LoraSettings

BERT = "base_model.model.bert.encoder.layer.0.attention.self.query"


def test_lora_trains_adapters_and_head_and_nothing_else(trainable):
    model = trainable("bert")
    # Two layers, query and value: A (4, 32) and B (32, 4) each; head (3, 32) and 3.
    assert model.layout.size == 2 * 2 * (4 * 32 + 32 * 4) + 3 * 32 + 3
    assert model.layout.names[:2] == (f"{BERT}.lora_A.weight", f"{BERT}.lora_B.weight")
    assert model.layout.names[-2:] == (
        "base_model.model.classifier.weight",
        "base_model.model.classifier.bias",
    )
    trained = sum(p.numel() for p in model.model.parameters() if p.requires_grad)
    assert trained == model.layout.size


def test_adapters_start_as_nothing(trainable, batch):
    """B is zero, so that the wrapped model answers as its base does."""
    model = trainable("llama")
    inputs = batch("next-token")
    with torch.no_grad(), model.model.disable_adapter():
        base = model.logits(inputs)
    with torch.no_grad():
        assert torch.equal(model.logits(inputs), base)


def test_the_same_seed_gives_the_same_bits(trainable):
    first, again, other = trainable("bert"), trainable("bert"), trainable("bert", seed=1)
    assert torch.equal(first.flat, again.flat)
    assert not torch.equal(first.flat, other.flat)
    assert first.layout == other.layout


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("bert", ("classifier.weight", "classifier.bias")),
        ("gpt2", ("transformer.wte.weight",)),  # the head of GPT-2 is its embedding
    ],
)
def test_head_alone(trainable, batch, kind, names):
    model = trainable(kind, train="head")
    assert model.layout.names == names
    task = "next-token" if kind == "gpt2" else "sequence-classification"
    model.logits(batch(task)).sum().backward()
    assert model.grad.abs().sum() > 0


def test_a_pooler_that_the_checkpoint_lacks_is_trained_too(trainable):
    for train in ("lora", "head"):
        names = trainable("bert-mlm", train=train).layout.names
        assert sum("pooler.dense" in name for name in names) == 2


def test_full_counts_tied_tensors_once(trainable):
    model = trainable("llama", train="full")
    assert "lm_head.weight" not in model.layout.names
    assert "model.embed_tokens.weight" in model.layout.names
    assert len(set(model.layout.names)) == len(model.layout.names)
    assert model.layout.size == sum(p.numel() for p in model.model.parameters())


@pytest.mark.parametrize("train", ["lora", "head"])
@pytest.mark.parametrize("kind", ["bert", "bert-mlm", "gpt2", "vit", "dinov2"])
def test_trainables_are_float32_on_a_bfloat16_base(trainable, batch, kind, train):
    task = {"vit": "image-classification", "dinov2": "image-classification"}.get(
        kind, "sequence-classification"
    )
    model = trainable(kind, task, train=train, dtype="bfloat16")
    assert {p.dtype for p in model.model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.model.parameters() if not p.requires_grad} == {torch.bfloat16}
    model.model.train()
    inputs = batch(task)
    loss = torch.nn.functional.cross_entropy(model.logits(inputs), inputs["labels"])
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(model.grad).all()
    assert model.grad.abs().sum() > 0


def test_bfloat16_next_token(trainable, batch):
    model = trainable("llama", dtype="bfloat16")
    logits = model.logits(batch("next-token"))
    assert logits.dtype == torch.float32
    logits.square().mean().backward()
    assert torch.isfinite(model.grad).all() and model.grad.abs().sum() > 0


def test_settings_that_cannot_work_are_refused(trainable):
    with pytest.raises(ConfigError, match=r"lora\.head is False.*expected true"):
        trainable("bert", lora={"head": False})
    trainable("llama", lora={"head": False})  # there is no such head
    with pytest.raises(ConfigError, match=r"model\.dtype is 'bfloat16'"):
        trainable("gpt2", train="head", dtype="bfloat16")
    with pytest.raises(ConfigError, match=r"model\.train is 'lora'.*lacks cls"):
        trainable("bert", "next-token")  # an encoder without its prediction head
    assert trainable("bert", "next-token", train="full").layout.size > 0


def test_backbone_dropout_off_leaves_lora_dropout_on(trainable, batch):
    model = trainable("bert", lora={"dropout": 0.5})
    model.load(torch.randn(model.layout.size))
    model.model.train()
    inputs = batch("sequence-classification")
    assert not torch.equal(model.logits(inputs), model.logits(inputs))
    model.model.eval()
    assert torch.equal(model.logits(inputs), model.logits(inputs))


def test_the_rank_axis_of_every_adapter_tensor_counts_the_ranks(trainable):
    layout = trainable("gpt2").layout
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        assert shape[lora_rank_axis(name)] == 4
    assert [lora_rank_axis(n) for n in trainable("bert").layout.names].count(None) == 2


def test_alpha_over_rank_scales(trainable, batch):
    small = trainable("bert", lora={"alpha": 4.0, "dropout": 0.0})
    large = trainable("bert", lora={"alpha": 8.0, "dropout": 0.0})
    values = torch.randn(small.layout.size)
    small.load(values)
    for name, tensor in small.layout.unflatten(values).items():
        if ".lora_B." in name:
            tensor /= 2  # twice the scale on half of B is the same model
    large.load(values)
    inputs = batch("sequence-classification")
    assert torch.allclose(small.logits(inputs), large.logits(inputs), atol=1e-6)


def test_settings_have_ranges():
    for wrong in ({"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}):
        with pytest.raises(ValueError):
            LoraSettings(**wrong)
