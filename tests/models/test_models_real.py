"""Real checkpoints: a BERT, a quantized GGUF and a ViT load, learn, and load again.

Folder: FEDLLM_TEST_WEIGHTS (minilm/, smollm2/, dinov2-small/).
"""

import hashlib
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from fedllm_app.core.errors import ConfigError
from fedllm_app.models import gguf
from fedllm_app.models.adapter import wrap
from fedllm_app.models.backbone import load_backbone, load_tokenizer
from fedllm_app.models.export import merge, save_adapter
from fedllm_app.models.image import image_spec
from fedllm_app.models.settings import LoraSettings, ModelSettings

pytestmark = pytest.mark.real
WEIGHTS = Path(os.environ.get("FEDLLM_TEST_WEIGHTS", "~/.cache/fedllm-test-weights")).expanduser()
SHARED = Path(__file__).parents[2].parent / "shared" / "weights"


def needed(path: Path) -> str:
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return str(path)


def learn(model, batch, steps=4, lr=0.05):
    """Return the loss before each step on one batch."""
    optimizer = torch.optim.SGD([model.flat], lr=lr, momentum=0.9)
    losses = []
    model.model.train()
    for _ in range(steps):
        model.zero_grad()
        logits = model.logits(batch)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), batch["labels"].flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.model.eval()
    return losses


def readme_model(folder: Path):
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    scope = {}
    exec(code.group(1), scope)
    return scope["model"]


def test_minilm_learns_and_loads_again(tmp_path):
    source, task = needed(WEIGHTS / "minilm"), "sequence-classification"
    settings, labels = ModelSettings(source=source), ["ice", "fire"]
    tokenizer = load_tokenizer(settings, source, tmp_path)
    backbone = load_backbone(settings, source, task, labels, tmp_path, tokenizer=tokenizer)
    assert backbone.fresh_modules == ("classifier",)
    model = wrap(backbone, settings, LoraSettings(dropout=0.0), 0)
    # 6 layers, query and value, A and B of 16 x 384; head 384 x 2 + 2.
    assert model.layout.size == 6 * 2 * 2 * 16 * 384 + 384 * 2 + 2
    batch = dict(tokenizer(["snow and frost", "smoke and flame"], return_tensors="pt"))
    batch["labels"] = torch.tensor([0, 1])
    losses = learn(model, batch, steps=6, lr=0.1)
    assert losses[-1] < losses[0] - 0.05
    folder = save_adapter(
        model, tmp_path / "run", task=task, source=source, labels=labels, tokenizer=tokenizer
    )
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    with torch.no_grad():
        mine = model.logits(batch)
        assert torch.allclose(readme_model(folder)(**inputs).logits, mine, atol=1e-5)


def test_gguf_is_converted_once_and_learns(tmp_path, monkeypatch):
    source = needed(WEIGHTS / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf")
    settings = ModelSettings(source=source)
    tokenizer = load_tokenizer(settings, source, tmp_path)
    converted = gguf.gguf_folder(Path(source), tmp_path)
    assert [p for p in (tmp_path / "gguf").iterdir() if p.is_dir()] == [converted]
    monkeypatch.setattr(gguf, "_convert", lambda *_: pytest.fail("converted again"))
    backbone = load_backbone(settings, source, "next-token", [], tmp_path, tokenizer=tokenizer)
    model = wrap(backbone, settings, LoraSettings(dropout=0.0), 0)
    batch = dict(tokenizer("The capital of France is", return_tensors="pt"))
    with torch.no_grad():
        assert tokenizer.decode(model.logits(batch)[0, -1].argmax()).strip() == "Paris"
    losses = learn(model, {**batch, "labels": batch["input_ids"]}, steps=3, lr=0.01)
    assert losses[-1] < losses[0]
    folder = save_adapter(
        model, tmp_path / "run", task="next-token", source=str(converted), tokenizer=tokenizer
    )
    with torch.no_grad():
        mine = model.logits(batch)
        assert torch.allclose(readme_model(folder)(**batch).logits, mine, atol=1e-3)
    merge(folder, tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    # Without the cache, the message names the file, and the file is enough.
    monkeypatch.undo()
    shutil.rmtree(converted)
    file = Path(source).resolve()
    digest = hashlib.sha256(Path(source).read_bytes()).hexdigest()
    with pytest.raises(ConfigError, match=rf"converted from {file} \(sha256 {digest}\)"):
        merge(folder, tmp_path / "again", cache=tmp_path)
    assert f"--base {file}" in (folder / "README.md").read_text()
    merge(folder, tmp_path / "again", source, tmp_path)
    assert (tmp_path / "again" / "model.safetensors").is_file()


def test_dinov2_learns_on_small_images(tmp_path):
    source, task = needed(SHARED / "dinov2-small"), "image-classification"
    spec = image_spec(source, 98)
    assert (spec.side, spec.mean) == (98, (0.485, 0.456, 0.406))
    settings = ModelSettings(source=source)
    backbone = load_backbone(settings, source, task, ["cat", "dog"], tmp_path)
    assert backbone.fresh_modules == ("classifier",)
    assert backbone.dtype == torch.float32  # the file holds float16
    model = wrap(backbone, settings, LoraSettings(dropout=0.0), 0)
    pixels = torch.stack([torch.full((3, 98, 98), -1.0), torch.full((3, 98, 98), 1.0)])
    losses = learn(model, {"pixel_values": pixels, "labels": torch.tensor([0, 1])}, lr=0.001)
    assert losses[-1] < losses[0]
