"""What no run can be made of is refused in one sentence, before the weights are read."""

import json
import logging
from pathlib import Path

import pytest
import torch

from fedllm_app.core.errors import ConfigError
from fedllm_app.models.adapter import wrap
from fedllm_app.models.backbone import load_backbone, load_tokenizer
from fedllm_app.models.positions import most_tokens
from fedllm_app.models.preflight import check_model
from fedllm_app.models.settings import LoraSettings, ModelSettings
from fedllm_app.models.suits import check_reads
from fedllm_app.models.targets import adapted, lora_targets

CLASSES, NEXT = "sequence-classification", "next-token"
POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 1234\n"
)


def refused(folder, task=CLASSES, max_tokens=16, init="pretrained", **lora):
    """Return the one line that both the check before a run and the loading itself refuse with."""
    settings = ModelSettings(source=str(folder), init=init)
    labels = [] if task == NEXT else ["a", "b"]
    adapters = LoraSettings(**{"rank": 4, **lora})
    where = (settings, adapters, str(folder), task, labels, max_tokens, Path("/nowhere"))
    with pytest.raises(ConfigError) as early:
        check_model(*where)
    with pytest.raises(ConfigError) as late:
        wrap(
            load_backbone(settings, str(folder), task, labels, Path("/nowhere")), settings,
            adapters, 0,
        )  # fmt: skip
    assert str(early.value) == str(late.value)
    assert "\n" not in str(late.value)
    return str(late.value)


def edit(folder: str, **changes):
    config = Path(folder) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))


def test_a_pointer_in_the_place_of_a_file_is_named(source, tokenizer, tmp_path):
    folder = source("bert")
    weights, config = Path(folder) / "model.safetensors", Path(folder) / "config.json"
    weights.write_text(POINTER)
    assert refused(folder).startswith(f"{weights} is a Git LFS pointer of {len(POINTER)} bytes")
    tokenizer(pad_token="w0").save_pretrained(folder)
    load_tokenizer(ModelSettings(), folder, tmp_path)  # which reads no weights
    (Path(folder) / "tokenizer.json").write_text(POINTER)
    with pytest.raises(ConfigError, match=r"tokenizer\.json is a Git LFS pointer"):
        load_tokenizer(ModelSettings(), folder, tmp_path)
    (Path(folder) / "tokenizer.json").unlink()
    config.write_text(POINTER)
    assert refused(folder).startswith(f"{config} is a Git LFS pointer")


@pytest.mark.parametrize("kept", [4, 200, 0.5, 0.999, 1.1])
def test_a_torn_file_of_weights_is_named(source, kept):
    folder = source("bert")
    file = Path(folder) / "model.safetensors"
    whole = file.read_bytes()
    size = kept if kept > 2 else int(kept * len(whole))
    file.write_bytes((whole + whole)[:size])
    assert refused(folder).startswith(f"{file} ")
    file.write_bytes(bytes(len(whole)))
    assert "is no safetensors file" in refused(folder)
    file.write_bytes(whole)
    load_backbone(ModelSettings(), folder, CLASSES, ["a"], Path("/nowhere"))


def test_a_missing_part_of_the_weights_is_named(source):
    folder = Path(source("bert"))
    (folder / "model.safetensors").unlink()
    assert "holds no weights" in refused(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "model-00001-of-00002.safetensors"}}))
    assert f"{folder / 'model-00001-of-00002.safetensors'} is missing" in refused(folder)
    index.write_text("[]")
    assert "is not an index of weights" in refused(folder)
    settings = ModelSettings(source=str(folder), init="random")
    load_backbone(settings, str(folder), CLASSES, ["a"], Path("/nowhere"))


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq"])
def test_quantized_weights_are_refused_by_name(source, method):
    folder = source("llama")
    edit(folder, quantization_config={"quant_method": method, "load_in_4bit": True})
    assert f"quantized by {method!r}; expected the model in float32" in refused(folder, NEXT)


def test_code_that_comes_with_a_model_is_not_run(source):
    folder = source("llama")
    edit(folder, model_type="own", auto_map={"AutoConfig": "code.Config"})
    assert "custom code" in refused(folder, NEXT)


def test_a_model_that_reads_more_than_text_is_named_as_such(source):
    folder = source("llama")
    edit(folder, model_type="llava", architectures=["LlavaForConditionalGeneration"])
    assert "type 'llava', which reads more than text (vision_config)" in refused(folder, NEXT)


def test_one_that_can_be_trained_on_text_alone_gets_no_adapters_elsewhere(trainable, batch):
    model = trainable("gemma3", lora={"targets": "all-linear"})
    assert all(".language_model." in name for name in model.layout.names)
    model.logits(batch(NEXT)).sum().backward()
    b = [name for name in model.layout.names if ".lora_B." in name]
    grads = model.layout.unflatten(model.grad)
    assert b and all(grads[name].abs().max() > 0 for name in b)


@pytest.mark.parametrize(
    ("kind", "config", "most"),
    [
        ("bert", {"max_position_embeddings": 20}, 20),
        ("gpt2", {"n_positions": 20}, 20),
        ("roberta", {"max_position_embeddings": 22, "pad_token_id": 1}, 20),
        ("opt", {"max_position_embeddings": 20}, 20),
        ("llama", {"max_position_embeddings": 20}, None),
        ("t5", {}, None),
        ("mamba", {}, None),
    ],
)
def test_learnt_positions_bound_a_text_and_rotary_ones_do_not(source, kind, config, most):
    folder, task = source(kind, **config), CLASSES if kind in ("bert", "roberta") else NEXT
    task = CLASSES if kind == "t5" else task
    settings, labels = ModelSettings(source=folder), [] if task == NEXT else ["a"]
    model = load_backbone(settings, folder, task, labels, Path("/nowhere"))
    assert most_tokens(model) == most
    lora = LoraSettings(rank=2, targets="all-linear")
    where = (settings, lora, folder, task, labels)
    check_model(*where, most or 10_000, Path("/nowhere"))
    if most is not None:
        with pytest.raises(ConfigError, match=rf"task.max-tokens is 21; expected at most {most},"):
            check_model(*where, most + 1, Path("/nowhere"))
        # And it is so: one more does not fit, and that many do.
        ids = torch.full((1, most), 5)
        with torch.no_grad():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=torch.full((1, most + 1), 5))


def test_a_rank_above_every_layer_is_refused_and_above_some_told(source, said):
    assert "lora.rank is 512; expected at most 32" in refused(source("bert"), rank=512)
    folder = source("llama")  # whose values are 16 wide
    settings = ModelSettings(source=folder)
    check_model(settings, LoraSettings(rank=32), folder, NEXT, [], 16, Path("/nowhere"))
    assert "lora.rank is 32, above the narrower side of 2 of 4 adapted layers" in said.text


def test_all_linear_says_what_it_leaves_out(source, said):
    folder = source("mixtral")
    model = load_backbone(ModelSettings(), folder, NEXT, [], Path("/nowhere"))
    assert not any("experts" in name for name in lora_targets(model, "all-linear", ()))
    experts = sum(p.numel() for n, p in model.named_parameters() if "experts" in n)
    (warning,) = [r.getMessage() for r in said.records if r.levelno == logging.WARNING]
    assert "leaves out 4 tensors" in warning
    assert f"{experts:,} of " in warning
    said.clear()
    lora_targets(load_backbone(ModelSettings(), source("bert"), CLASSES, ["a"], Path("/n")),
                 "all-linear", ())  # fmt: skip
    assert not said.records


def test_what_a_message_proposes_for_mamba_works(source, batch):
    folder = source("mamba")
    message = refused(folder, NEXT, targets="auto")
    assert "'all-linear' or some of dt_proj, in_proj, x_proj, separated by commas" in message
    assert "no linear layer that an adapter fits named 'out_proj'" in refused(
        folder, NEXT, targets="out_proj"
    )
    for targets in ("all-linear", "dt_proj,in_proj,x_proj"):
        settings = ModelSettings(source=folder)
        backbone = load_backbone(settings, folder, NEXT, [], Path("/nowhere"))
        assert len(adapted(backbone, lora_targets(backbone, targets, ()))) == 3
        model = wrap(backbone, settings, LoraSettings(rank=2, targets=targets), 0)
        model.logits(batch(NEXT)).sum().backward()
        assert model.grad.abs().max() > 0


def test_a_head_that_cannot_read_the_tokenizers_texts_is_refused(trainable, tokenizer):
    from tokenizers.processors import TemplateProcessing

    model, words = trainable("t5"), tokenizer(pad_token="w0", eos_token="w1")
    with pytest.raises(ConfigError, match=r"T5ForSequenceClassification that cannot read a text"):
        check_reads(model.backbone, words)
    words.backend_tokenizer.post_processor = TemplateProcessing("$A w1", special_tokens=[("w1", 1)])
    check_reads(model.backbone, words)
    check_reads(trainable("bert").backbone, words)
