"""A saved result loads by the lines in its README and answers as the trained model did."""

import json
import re

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from fedllm_app.core.errors import ConfigError, DataError
from fedllm_app.data.image import ImageSpec
from fedllm_app.models.export import merge, save_adapter
from fedllm_app.models.gguf import NOTE

LABELS = ["sky", "sea", "soil"]
AUTO = {
    "sequence-classification": AutoModelForSequenceClassification,
    "next-token": AutoModelForCausalLM,
    "image-classification": AutoModelForImageClassification,
}
CASES = [
    ("bert", "sequence-classification"),
    ("bert-mlm", "sequence-classification"),
    ("bert-mlm", "next-token"),
    ("gpt2", "sequence-classification"),
    ("gpt2", "next-token"),
    ("llama", "next-token"),
    ("vit", "image-classification"),
    ("dinov2", "image-classification"),
]


@pytest.fixture
def export(trainable, source, tmp_path):
    """Save a model with values unlike its first ones; return it and the folder written."""

    def run(kind, task, tokenizer=None, **settings):
        model = trainable(kind, task, **settings)
        start = model.values()
        noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(3))
        model.load(start + 0.05 * noise.numpy())
        folder = save_adapter(
            model,
            tmp_path / "run",
            task=task,
            source=str(tmp_path / f"{kind}-source"),
            labels=[] if task == "next-token" else LABELS,
            tokenizer=tokenizer,
            metrics={"accuracy": 0.625},
        )
        return model, folder

    return run


def readme_model(folder):
    """Run the README's lines as a reader would paste them; return what they define."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    scope = {}
    exec(code.group(1), scope)
    return scope


def same(model, loaded, inputs, atol=1e-5):
    model.model.eval()
    with torch.no_grad():
        mine = model.logits(inputs)
        theirs = loaded(**{k: v for k, v in inputs.items() if k != "labels"}).logits
    # A padded position says nothing: leave it out.
    keep = inputs["attention_mask"].bool() if mine.ndim == 3 else slice(None)
    return torch.allclose(mine[keep], theirs[keep], atol=atol)


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_readme_lines_load_the_adapter(export, batch, kind, task):
    model, folder = export(kind, task)
    assert folder.name == "adapter"
    assert (folder / "adapter_model.safetensors").is_file()
    loaded = readme_model(folder)["model"]
    assert same(model, loaded, batch(task))
    if task != "next-token":
        assert loaded.config.id2label == {0: "sky", 1: "sea", 2: "soil"}


@pytest.mark.parametrize(("kind", "task"), CASES)
@pytest.mark.parametrize("train", ["head", "full"])
def test_readme_lines_load_a_whole_model(export, batch, kind, task, train):
    model, folder = export(kind, task, train=train)
    assert folder.name == "model"
    assert same(model, readme_model(folder)["model"], batch(task))
    config = json.loads((folder / "config.json").read_text())
    assert config.get("use_cache", True) is True
    assert not getattr(model.backbone.config, "use_cache", False)


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_merged_needs_no_peft(export, batch, tmp_path, kind, task):
    model, folder = export(kind, task)
    out = merge(folder, tmp_path / "merged")
    assert not (out / "adapter_config.json").exists()
    assert same(model, AUTO[task].from_pretrained(out).eval(), batch(task))


def test_a_random_base_is_saved_beside_its_adapter(export, batch, tmp_path):
    model, folder = export("bert", "sequence-classification", init="random")
    assert same(model, readme_model(folder)["model"], batch("sequence-classification"))
    out = merge(folder, tmp_path / "merged")
    merged = AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert same(model, merged, batch("sequence-classification"))


def test_bfloat16_base(export, batch, tmp_path):
    model, folder = export("bert", "sequence-classification", dtype="bfloat16")
    inputs = batch("sequence-classification")
    assert same(model, readme_model(folder)["model"], inputs, atol=0.05)
    out = merge(folder, tmp_path / "merged")
    merged = AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert same(model, merged, inputs, atol=0.05)


def test_saving_again_replaces_the_folder(export, batch):
    _, folder = export("bert", "sequence-classification")
    (folder / "stale").touch()
    model, again = export("bert", "sequence-classification", seed=2)
    assert again == folder and not (folder / "stale").exists()
    assert [p.name for p in folder.parent.iterdir()] == ["adapter"]
    assert same(model, readme_model(folder)["model"], batch("sequence-classification"))


def test_saving_leaves_the_model_trainable(export):
    model, _ = export("llama", "next-token", train="full")
    model.load(model.values())
    home = model.flat.untyped_storage().data_ptr()
    assert {p.untyped_storage().data_ptr() for p in model.model.parameters()} == {home}


def test_tokenizer_labels_and_metrics_are_there(export, tokenizer, tmp_path):
    words = tokenizer(pad_token="w0")
    _, folder = export("bert", "sequence-classification", tokenizer=words)
    text = (folder / "README.md").read_text()
    assert "| accuracy | 0.625 |" in text and "| 2 | soil |" in text
    assert str(tmp_path / "bert-source") in text
    assert readme_model(folder)["tokenizer"]("w4 w5")["input_ids"] == [4, 5]
    merge(folder, tmp_path / "merged")
    assert AutoTokenizer.from_pretrained(tmp_path / "merged")("w4")["input_ids"] == [4]


def test_image_scaling_is_told(trainable, source, tmp_path):
    model = trainable("vit")
    folder = save_adapter(
        model,
        tmp_path / "run",
        task="image-classification",
        source=source("vit"),
        labels=LABELS,
        image=ImageSpec((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 28),
    )
    text = (folder / "README.md").read_text()
    assert "28 x 28" in text and "(0.25, 0.25, 0.25)" in text


def test_merge_refuses_another_base_and_a_used_folder(export, source, tmp_path):
    _, folder = export("bert", "sequence-classification")
    with pytest.raises(ConfigError, match="new or empty folder"):
        merge(folder, folder)
    with pytest.raises(ConfigError, match="is no adapter"):
        merge(tmp_path / "bert-source", tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "bert-source")
    model.bert.embeddings.word_embeddings.weight.data[3] += 1
    model.bert.save_pretrained(tmp_path / "bert-source")
    with pytest.raises(DataError, match="fingerprint"):
        merge(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_base_that_has_moved_is_named_and_given_anew(export, batch, tmp_path):
    model, folder = export("bert", "sequence-classification")
    was, now = tmp_path / "bert-source", tmp_path / "elsewhere"
    was.rename(now)
    with pytest.raises(ConfigError, match=rf"'{was}', is not there anymore; expected --base"):
        merge(folder, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"--base is .*: no config.json there"):
        merge(folder, tmp_path / "out", str(tmp_path))
    with pytest.raises(ConfigError, match=r"the base 'no-such/model' of this adapter does not"):
        merge(folder, tmp_path / "out", "no-such/model")
    assert not (tmp_path / "out").exists()
    merged = AUTO["sequence-classification"].from_pretrained(
        merge(folder, tmp_path / "out", str(now))
    )
    assert same(model, merged.eval(), batch("sequence-classification"))


def test_a_random_base_moves_with_its_adapter(export, tmp_path):
    _, folder = export("bert", "sequence-classification", init="random")
    moved = folder.parent.rename(tmp_path / "moved") / folder.name
    assert merge(moved, tmp_path / "out") == tmp_path / "out"


def test_the_file_that_a_base_was_converted_from_is_named(export, tmp_path):
    # As gguf_folder leaves it; real files are converted in test_models_real.
    origin = {"file": "/models/small.gguf", "sha256": "ab" * 32}
    (tmp_path / "bert-source").mkdir()
    (tmp_path / "bert-source" / NOTE).write_text(json.dumps(origin))
    _, folder = export("bert", "sequence-classification")
    text = (folder / "README.md").read_text()
    assert "converted from `/models/small.gguf` (sha256 `abab" in text
    assert f"fedllm export {folder.parent} --merge OUT --base /models/small.gguf" in text
    (tmp_path / "bert-source").rename(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"converted from /models/small.gguf \(sha256 abab"):
        merge(folder, tmp_path / "out")
