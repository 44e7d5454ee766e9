"""Backbones load for every task, the same bits in every process, and refuse what cannot work."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import BertConfig

from fedllm_app.core.errors import ConfigError
from fedllm_app.models.backbone import load_backbone, load_tokenizer
from fedllm_app.models.image import image_spec
from fedllm_app.models.readme import load_lines
from fedllm_app.models.settings import ModelSettings
from fedllm_app.tasks import TASKS

LABELS = ["sky", "sea", "soil"]
CLASSES = "sequence-classification"


def load(source: str, task: str = CLASSES, seed: int = 0, tokenizer=None, **settings):
    labels = [] if task == "next-token" else LABELS
    return load_backbone(
        ModelSettings(source=source, **settings),
        source,
        task,
        labels,
        Path("/nowhere"),
        seed=seed,
        tokenizer=tokenizer,
    )


@pytest.mark.parametrize(
    ("kind", "task", "name"),
    [
        ("bert", CLASSES, "BertForSequenceClassification"),
        ("gpt2", CLASSES, "GPT2ForSequenceClassification"),
        ("gpt2", "next-token", "GPT2LMHeadModel"),
        ("llama", "next-token", "LlamaForCausalLM"),
        ("vit", "image-classification", "ViTForImageClassification"),
        ("dinov2", "image-classification", "Dinov2ForImageClassification"),
    ],
)
def test_the_task_chooses_the_model(source, batch, kind, task, name):
    model = load(source(kind), task)
    assert type(model).__name__ == name
    assert not model.training
    assert model.config._attn_implementation == "sdpa"
    assert not getattr(model.config, "use_cache", False)
    with torch.no_grad():
        logits = model(**{k: v for k, v in batch(task).items() if k != "labels"}).logits
    assert torch.isfinite(logits).all()
    if task != "next-token":
        assert logits.shape == (2, 3)
        assert model.config.id2label == {0: "sky", 1: "sea", 2: "soil"}


def test_a_new_head_comes_from_the_seed_alone(source):
    folder = source("bert")
    torch.manual_seed(1)
    first = load(folder, seed=5).classifier.weight
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = load(folder, seed=5).classifier.weight
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert not torch.equal(first, load(folder, seed=6).classifier.weight)


def test_another_process_draws_the_same_head(source):
    folder = source("bert")
    lines = f"""
from pathlib import Path
from fedllm_app.models.backbone import ModelSettings, load_backbone
m = load_backbone(ModelSettings(source={folder!r}), {folder!r}, {CLASSES!r}, {LABELS!r},
                  Path("/nowhere"), seed=5)
print(m.classifier.weight.detach().numpy().tobytes().hex())
"""
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    mine = load(folder, seed=5).classifier.weight.detach().numpy().tobytes().hex()
    assert done.stdout.strip() == mine
    assert "MISSING" not in done.stderr


def test_fresh_modules_are_those_the_checkpoint_lacks(source):
    assert load(source("bert")).fresh_modules == ("classifier",)
    # A masked-language model is saved without the pooler that the classifier reads.
    assert load(source("bert-mlm")).fresh_modules == ("bert.pooler.dense", "classifier")
    assert load(source("gpt2"), "next-token").fresh_modules == ()


def test_a_head_of_another_size_is_replaced(source, tmp_path):
    load(source("bert")).save_pretrained(tmp_path / "three")
    settings = ModelSettings(source=str(tmp_path / "three"))
    model = load_backbone(settings, settings.source, CLASSES, ["a", "b"], tmp_path)
    assert model.fresh_modules == ("classifier",)
    assert model.classifier.weight.shape == (2, 32)
    same = load(str(tmp_path / "three"))
    assert same.fresh_modules == ()


@pytest.mark.parametrize("kind", ["bert", "gpt2", "vit"])
def test_dropout_is_off_or_as_the_config_says(source, batch, kind):
    names = {
        "bert": {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5},
        "gpt2": {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5},
        "vit": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.5},
    }[kind]
    task = "image-classification" if kind == "vit" else CLASSES
    folder = source(kind, **names)
    inputs = {k: v for k, v in batch(task).items() if k != "labels"}
    off = load(folder, task).train()
    assert torch.equal(off(**inputs).logits, off(**inputs).logits)
    assert all(getattr(off.config, name) == 0 for name in names)
    on = load(folder, task, dropout=True).train()
    assert not torch.equal(on(**inputs).logits, on(**inputs).logits)


def test_random_init_needs_the_config_only(tmp_path, batch):
    config = BertConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    config.save_pretrained(tmp_path / "only")
    folder = str(tmp_path / "only")
    one, two = (load(folder, init="random", seed=3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    with pytest.raises(ConfigError, match=r"holds no weights.*model\.init"):
        load(folder)


def test_an_encoder_cannot_see_the_token_it_predicts(source, batch):
    model = load(source("bert-mlm"), "next-token")
    inputs = {k: v for k, v in batch("next-token").items() if k != "labels"}
    first = model(**inputs).logits
    inputs["input_ids"][0, 4] = 50
    assert torch.equal(model(**inputs).logits[0, :4], first[0, :4])


def test_dtype_rules_the_base_but_not_a_full_run(source):
    folder = source("bert")
    assert load(folder, dtype="bfloat16").dtype == torch.bfloat16
    assert load(folder, dtype="bfloat16", train="full").dtype == torch.float32


def test_the_tokenizer_gives_the_pad_token(source, tokenizer):
    small = tokenizer(pad_token="w9", eos_token="w2")
    assert load(source("gpt2"), tokenizer=small).config.pad_token_id == 9
    assert load(source("gpt2")).config.pad_token_id == 1  # its end token
    with pytest.raises(ConfigError, match="200 tokens, the model only 100"):
        load(source("gpt2"), tokenizer=tokenizer(200, pad_token="w9"))


def test_load_tokenizer_pads_with_the_end_token(tokenizer, tmp_path):
    (tmp_path / "t").mkdir()
    folder = str(tmp_path / "t")
    BertConfig().save_pretrained(folder)
    tokenizer(eos_token="w2").save_pretrained(folder)
    loaded = load_tokenizer(ModelSettings(), folder, tmp_path)
    assert loaded(["w5 w6", "w7"], padding=True)["input_ids"] == [[5, 6], [7, 2]]
    tokenizer().save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"model\.tokenizer"):
        load_tokenizer(ModelSettings(), folder, tmp_path)


def test_what_cannot_be_loaded_is_named(source, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"'/no/such'.*no config.json"):
        load("/no/such")
    with pytest.raises(ConfigError, match=r"'/no/such.gguf'.*no such file"):
        load("/no/such.gguf")
    with pytest.raises(ConfigError, match=r"has no AutoModelForCausalLM of it for task.name"):
        load(source("vit"), "next-token")


def test_classes_need_labels(source, tmp_path):
    folder = source("bert")
    with pytest.raises(ConfigError, match=r"data\.labels"):
        load_backbone(ModelSettings(source=folder), folder, CLASSES, [], tmp_path)


def test_weights_that_do_not_fit_are_refused(source):
    folder = Path(source("bert"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 90}))
    with pytest.raises(ConfigError, match=r"do not fit its config.*word_embeddings"):
        load(str(folder))


def test_a_model_that_names_no_image_side_is_refused(source):
    with pytest.raises(ConfigError, match=r"of type 'bert' that names no image side"):
        image_spec(source("bert"))
    with pytest.raises(ConfigError, match=r"model.source is 'nobody/nothing'"):
        image_spec("nobody/nothing")


def test_image_spec_follows_the_processor(source):
    folder = source("vit")
    assert image_spec(folder).side == 28
    assert image_spec(folder, 56).side == 56
    processor = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"shortest_edge": 42}}
    (Path(folder) / "preprocessor_config.json").write_text(json.dumps(processor))
    spec = image_spec(folder)
    assert (spec.mean, spec.std, spec.side) == ((0.5,) * 3, (0.25,) * 3, 42)


def test_a_task_without_labels_sets_keys_of_the_models_config(source, tmp_path, monkeypatch):
    own = replace(TASKS[CLASSES], needs_labels=False, config={"num_labels": 1})
    monkeypatch.setitem(TASKS, CLASSES, own)
    folder = source("bert")
    model = load_backbone(ModelSettings(source=folder), folder, CLASSES, [], tmp_path)
    assert model.config.num_labels == 1
    about = {"task": CLASSES, "base": folder, "dtype": "float32", "labels": [],
             "is_decoder": False, "pad_token_id": None}  # fmt: skip
    assert "    num_labels=1," in load_lines(tmp_path, about, "lora", False)
    monkeypatch.setitem(TASKS, CLASSES, replace(own, auto_model="AutoModelForNothing"))
    with pytest.raises(ConfigError, match=r"auto_model is 'AutoModelForNothing'"):
        load_backbone(ModelSettings(source=folder), folder, CLASSES, [], tmp_path)
