"""What a step holds is counted from shapes, and held against what torch allocates in a real one."""

import copy

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import MixtralConfig

from fedllm_app.client.gradient import mean_gradient
from fedllm_app.core.errors import ConfigError
from fedllm_app.models.adapter import wrap
from fedllm_app.models.backbone import checkpoint_layers
from fedllm_app.models.memory import shaped_model, step_memory
from fedllm_app.models.scratch import ALL_SHAPES, scratch_config
from fedllm_app.models.settings import LoraSettings, ModelSettings
from fedllm_app.models.suits import auto_model
from fedllm_app.tasks.pretraining import Pretraining

V, B, T = 512, 4, 32
TASK = Pretraining()


def config_of(shape):
    """Return the config of a small decoder."""
    config = scratch_config(ALL_SHAPES[shape], V, T, {})
    config.use_cache = False
    return config


def batch_of(rows=B, tokens=T):
    """Return rows of random tokens; a document begins in the middle of each."""
    ids = torch.randint(0, V, (rows, tokens), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(tokens).remainder(tokens // 2).expand(rows, -1).contiguous()
    return {"input_ids": ids, "position_ids": positions, "labels": ids}


def passes(micro=0):
    """Return what passes a batch forward and back, some rows at a time."""

    def step(model, batch):
        def loss_of(part):
            return TASK.loss(model.logits(part), part), TASK.units(part)

        mean_gradient(loss_of, batch, model.grad, micro, "")

    return step


def allocated(model, batch, step):
    """Return the most bytes that torch's allocator has given out at once in a real step."""
    model.model.train()
    step(model, batch)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step(model, batch)
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize(
    ("shape", "train", "checkpointing", "micro"),
    [
        ("tiny", "full", False, 0),
        ("tiny", "full", True, 2),
        ("tiny", "lora", False, 0),
        ("lstm-tiny", "full", False, 0),
        ("conformer-tiny", "full", False, 0),
    ],
)
def test_a_step_holds_what_torch_allocates(shape, train, checkpointing, micro):
    settings, batch, step = ModelSettings(train=train), batch_of(), passes(micro)
    made = auto_model("next-token").from_config(config_of(shape))
    if checkpointing:
        settings = settings.model_copy(update={"checkpointing": True})
        checkpoint_layers(made)
    model = wrap(made, settings, LoraSettings(), 0)
    shaped = shaped_model(config_of(shape), "next-token", settings, LoraSettings())
    found = step_memory(shaped, batch, step)
    own = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held_by(model)}
    assert found.weights == sum(own.values())
    assert (found.gradients, found.trained) == (4 * model.layout.size, model.layout.size)
    read = sum(t.nbytes for t in batch.values())
    assert found.activations - read == pytest.approx(allocated(model, batch, step), rel=0.05)


def held_by(model):
    """Return the tensors of a model."""
    return [*model.model.parameters(), *model.model.buffers()]


def test_counting_again_gives_the_same_and_fewer_rows_or_tokens_give_less():
    shaped = shaped_model(
        config_of("tiny"), "next-token", ModelSettings(train="full"), LoraSettings()
    )
    whole = step_memory(shaped, batch_of(), passes())
    assert step_memory(shaped, batch_of(), passes()) == whole
    rows = step_memory(shaped, batch_of(rows=B // 2), passes()).activations
    tokens = step_memory(shaped, batch_of(tokens=T // 2), passes()).activations
    parts = step_memory(shaped, batch_of(), passes(micro=B // 2)).activations
    assert max(rows, tokens, parts) < 0.65 * whole.activations


def test_what_is_not_trained_keeps_nothing_for_its_gradient():
    shaped = shaped_model(
        config_of("tiny"), "next-token", ModelSettings(train="full"), LoraSettings()
    )
    layout = shaped.layout
    whole = step_memory(shaped, batch_of(), passes()).activations
    last = torch.arange(layout.size - layout.sizes[-1], layout.size).numpy()
    assert step_memory(shaped, batch_of(), passes(), last).activations < 0.8 * whole


def test_what_hangs_on_values_is_said_to_be_unknown():
    words = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = MixtralConfig(vocab_size=V, num_attention_heads=2, num_key_value_heads=2, **words)
    config._experts_implementation = "eager"
    shaped = shaped_model(
        copy.deepcopy(config), "next-token", ModelSettings(train="full"), LoraSettings()
    )
    with pytest.raises(ConfigError, match="cannot be counted from shapes"):
        step_memory(shaped, batch_of(), passes())
    with pytest.raises(ConfigError, match=r"model\.quantize is '4bit'"):
        shaped_model(config, "next-token", ModelSettings(quantize="4bit"), LoraSettings())
