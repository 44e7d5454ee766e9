"""LSTM, Transformer and Conformer for devices: size, causality, documents, state, folders."""

import re

import numpy as np
import pytest
import torch
from torch.nn.functional import conv1d
from transformers import AutoModelForCausalLM

from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError
from fedllm_app.models.adapter import wrap
from fedllm_app.models.apart import check_apart
from fedllm_app.models.backbone import load_backbone, local_source
from fedllm_app.models.scratch import (
    ALL_SHAPES,
    DEVICE_SHAPES,
    ConformerShape,
    LstmShape,
    Shape,
    scratch_config,
)
from fedllm_app.models.settings import LoraSettings, ModelSettings
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.play import LocalTransport, run_local

TINY = {
    "lstm": LstmShape(2, 16, 40, 1),
    "transformer": Shape(2, 16, 2, 1),
    "conformer": ConformerShape(2, 16, 2, 5, 1),
}
ENDS = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 2}
IDS = torch.randint(3, 90, (3, 12), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", DEVICE_SHAPES)
def test_a_shape_has_the_size_that_it_is_named_for(name):
    shape, V = DEVICE_SHAPES[name], 4096
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(scratch_config(shape, V, 128, {}))
    count = sum(p.numel() for p in model.parameters())  # tied tensors come once
    assert count == shape.parameters(V)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert count == pytest.approx(shape.nominal, rel=0.03)
    low, high = {"tiny": (1e6, 1.25e6), "small": (4e6, 5e6), "large": (19e6, 21e6)}[
        name.rpartition("-")[2]
    ]
    assert low < count < high
    # Ro et al. 2022: 21M and 20.2M.
    published = {"transformer-large": 21e6, "conformer-large": 20.2e6}
    assert count == pytest.approx(published.get(name, count), rel=0.03)


@pytest.fixture
def model(request):
    torch.manual_seed(0)
    # Large weights, so that what is read shows.
    config = scratch_config(TINY[request.param], 90, 64, {**ENDS, "tie_word_embeddings": True})
    config.initializer_range, config.use_cache = 0.3, False
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("model", TINY, indirect=True)
@torch.no_grad()
def test_a_change_moves_nothing_before_it(model):
    changed = IDS.clone()
    changed[:, 7] = (IDS[:, 7] - 3 + 41) % 87 + 3
    moved = (model(changed).logits - model(IDS).logits).abs().amax(dim=(0, 2))
    assert moved[:7].max() == 0
    assert moved[7:].min() > 0


@pytest.mark.parametrize("model", TINY, indirect=True)
@torch.no_grad()
def test_documents_of_a_packed_row_are_read_as_if_alone(model):
    # Every row is cut elsewhere; the last begins with the rest of a document.
    cuts = [[0, 4, 9, 11], [0, 1, 2], [0, 6]]
    positions = torch.zeros_like(IDS)
    for row, begins in zip(positions, cuts, strict=True):
        for begin, end in zip(begins, [*begins[1:], 12], strict=True):
            row[begin:end] = torch.arange(end - begin)
    packed = model(IDS, position_ids=positions).logits
    for i, begins in enumerate(cuts):
        for begin, end in zip(begins, [*begins[1:], 12], strict=True):
            alone = model(IDS[i : i + 1, begin:end]).logits[0]
            torch.testing.assert_close(packed[i, begin:end], alone, rtol=1e-4, atol=1e-5)
    check_apart(wrap(model, ModelSettings(train="full"), LoraSettings(), 0))


@pytest.mark.parametrize("model", TINY, indirect=True)
@torch.no_grad()
def test_the_state_of_generation_changes_no_token(model):
    how = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": None}
    plain = model.generate(IDS, use_cache=False, **how)
    assert torch.equal(model.generate(IDS, use_cache=True, **how), plain)
    # Neither do pads on the left.
    left = torch.cat([torch.full((3, 4), 2), IDS], dim=1)
    padded = model.generate(left, attention_mask=(left != 2).long(), use_cache=True, **how)
    assert torch.equal(padded[:, 4:], plain)
    # Tokens in two parts, the second of several, are those in one.
    first = model(IDS[:, :5], use_cache=True)
    second = model(IDS[:, 5:], past_key_values=first.past_key_values, use_cache=True)
    both = torch.cat([first.logits, second.logits], dim=1)
    torch.testing.assert_close(both, model(IDS).logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_convolution_reads_a_token_and_those_just_before_it():
    from fedllm_app.models.conformer import CausalConvolution

    torch.manual_seed(0)
    module = CausalConvolution(scratch_config(TINY["conformer"], 90, 64, ENDS), 0)
    x, depthwise = torch.randn(1, 12, 16), module.depthwise
    h = torch.nn.functional.glu(module.gated(module.norm(x)), dim=-1)
    # Token t of channel c is the sum over j of weight[c, j] h[t - 4 + j, c].
    made = torch.stack([
        sum(depthwise.weight[:, 0, j] * h[0, t - 4 + j] for j in range(5) if t - 4 + j >= 0)
        + depthwise.bias
        for t in range(12)
    ])  # fmt: skip
    expected = module.out(torch.nn.functional.silu(module.depthwise_norm(made)))
    torch.testing.assert_close(module(x, None, None, None)[0], expected)
    both_sides = conv1d(h.transpose(1, 2), depthwise.weight, depthwise.bias, padding=2, groups=16)
    assert not torch.allclose(both_sides[0].T, made)


@pytest.mark.parametrize("model", ["lstm"], indirect=True)
def test_the_forget_gate_begins_open_and_stays_as_it_was_saved(model, tmp_path):
    biases = [p for n, p in model.named_parameters() if "bias_ih" in n]
    assert all(b[40:80].eq(1).all() and b[80:].eq(0).all() for b in biases)
    with torch.no_grad():
        biases[0].fill_(0.25)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )


@pytest.mark.parametrize("family", ["lstm", "conformer"])
def test_a_run_is_the_start_of_the_next(tiny, tmp_path, monkeypatch, family):
    """From scratch with a kill, to a folder, to a run that begins with its values and tokenizer."""
    name = f"{family}-small"
    monkeypatch.setitem(ALL_SHAPES, name, TINY[family])
    keys = tiny.keys("pretraining") | {
        "run.home": str(tiny.home), "run.name": name, "run.rounds": 2, "run.checkpoint-every": 1,
        "model.source": f"scratch:{name}", "model.vocabulary": 300, "model.train": "full",
        "model.tokenizer": "train", "model.checkpointing": True, "task.max-tokens": 8,
        "partition.clients": 3, "round.clients": 2, "client.steps": 2, "client.batch": 4,
        "client.stream-end": "wrap", "strategy.name": "fedavg", "client.micro-batch": 3,
        "client.keep-optimizer": True, "client.optimizer": "adamw", "client.lr": 1e-2,
        "round.evaluate-every": 2,
    }  # fmt: skip

    class Dying(LocalTransport):
        def submit(self, requests, timeout_s):
            if requests[0].round == 2:
                raise KeyboardInterrupt
            super().submit(requests, timeout_s)

    with pytest.raises(KeyboardInterrupt):
        run_local(RunConfig.parse(keys), Dying)
    folder = run_local(RunConfig.parse(keys)) / "model"
    weights = (folder / "model.safetensors").read_bytes()
    if family == "conformer":
        straight = run_local(RunConfig.parse(keys | {"run.name": "straight"})) / "model"
        assert weights == (straight / "model.safetensors").read_bytes()

    (lines,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert "import fedllm_app.models.own" in lines
    loaded = {}
    exec(lines, loaded)
    words = loaded["tokenizer"]("the", return_tensors="pt")
    assert (
        loaded["model"].generate(**words, max_new_tokens=3).shape[1] > words["input_ids"].shape[1]
    )

    keys |= {"model.source": str(folder), "model.tokenizer": "", "run.name": f"{family}-tuned"}
    keys |= {"strategy.name": "dense", "client.lr": 1e-3, "run.rounds": 1}
    tuned = Parts(RunConfig.parse(keys), Place(tiny.home))
    flat = [p.detach().numpy().reshape(-1) for p in loaded["model"].parameters()]
    assert np.array_equal(tuned.initial, np.concatenate(flat))
    assert tuned.tokenizer.get_vocab() == loaded["tokenizer"].get_vocab()
    end = run_local(RunConfig.parse(keys))
    assert (end / "model" / "model.safetensors").read_bytes() != weights
    with pytest.raises(ConfigError, match=r"the folder of a run.*model' is the model"):
        local_source(str(folder.parent), tmp_path)


@pytest.mark.parametrize("model", ["conformer"], indirect=True)
def test_a_conformer_takes_adapters_and_an_lstm_says_that_it_takes_none(model, tmp_path):
    model.save_pretrained(tmp_path / "conformer")
    lstm = AutoModelForCausalLM.from_config(scratch_config(TINY["lstm"], 90, 64, ENDS))
    lstm.save_pretrained(tmp_path / "lstm")

    def load(name):
        settings = ModelSettings(source=str(tmp_path / name))
        backbone = load_backbone(settings, settings.source, "next-token", [], tmp_path)
        return wrap(backbone, settings, LoraSettings(rank=2), 0)

    names = load("conformer").layout.names
    assert len(names) == 2 * 2 * 2
    assert all(".q_proj." in n or ".v_proj." in n for n in names)
    with pytest.raises(ConfigError, match=r"LstmForCausalLM has no linear layer"):
        load("lstm")
