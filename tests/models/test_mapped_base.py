"""Frozen weights stay pages of a file that all processes of a machine share."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fedllm_app.models import mapped
from fedllm_app.models.adapter import wrap
from fedllm_app.models.backbone import load_backbone
from fedllm_app.models.settings import LoraSettings, ModelSettings
from fedllm_app.models.suits import auto_model

CLASSES, NEXT = "sequence-classification", "next-token"
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MAPS = Path("/proc/self/smaps")
linux = pytest.mark.skipif(not MAPS.exists(), reason="this system does not list its mappings")


@pytest.fixture(autouse=True)
def _tiny_is_worth_a_file(monkeypatch):
    monkeypatch.setattr(mapped, "LEAST", 0)


def pages(tensor: torch.Tensor) -> tuple[str, int]:
    """Return the file that a tensor's memory is a mapping of, "" for none, and its kB written."""
    at, file, inside = tensor.data_ptr(), "", False
    for line in MAPS.read_text().splitlines():
        first, *rest = line.split()
        if "-" in first and not first.endswith(":"):
            begin, end = (int(x, 16) for x in first.split("-"))
            inside = begin <= at < end
            file = rest[4] if inside and len(rest) > 4 else file
        elif inside and first == "Private_Dirty:":
            return (file if file.startswith("/") else ""), int(rest[0])
    raise AssertionError("no mapping holds this tensor")


def stored(source, kind: str, dtype: str, folder: Path, shards: str = "50GB") -> str:
    """Return the folder of a tiny checkpoint of this type."""
    task = CLASSES if kind.startswith("bert") else NEXT
    model = auto_model(task).from_pretrained(source(kind), dtype=TYPES[dtype])
    model.save_pretrained(folder / f"{kind}-{dtype}", max_shard_size=shards)
    return str(folder / f"{kind}-{dtype}")


@linux
@pytest.mark.parametrize("has", ["float32", "bfloat16"])
@pytest.mark.parametrize("runs", ["float32", "bfloat16"])
def test_a_trained_step_leaves_the_base_in_its_file(source, batch, tmp_path, has, runs):
    folder = stored(source, "llama", has, tmp_path)
    settings = ModelSettings(source=folder, dtype=runs)
    model = wrap(
        load_backbone(settings, folder, NEXT, [], tmp_path / "cache"),
        settings, LoraSettings(rank=2, targets="all-linear"), 0,
    )  # fmt: skip
    before = model.flat.clone()
    inputs = batch(NEXT)
    for _ in range(2):  # B is zero at first, and A has no gradient
        model.zero_grad()
        model.backbone(**inputs).loss.backward()
        model.flat.data -= 0.1 * model.grad
    assert not torch.equal(model.flat, before)
    plain = auto_model(NEXT).from_pretrained(folder, dtype=TYPES[runs]).state_dict()
    there = f"{folder}/" if has == runs else f"{tmp_path / 'cache' / 'bases' / runs}-"
    frozen = {n: p for n, p in model.model.named_parameters() if not p.requires_grad}
    for name, tensor in frozen.items():
        file, written = pages(tensor)
        assert file.startswith(there), name
        assert written == 0, name
        own = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        assert tensor.dtype == TYPES[runs]
        assert torch.equal(tensor, plain[own]), name
    assert len(frozen) > 10


def test_a_cast_base_keeps_what_a_checkpoint_lacks_and_its_name(source, tmp_path, monkeypatch):
    folder = stored(source, "bert-mlm", "bfloat16", tmp_path, shards="20KB")
    assert len(list(Path(folder).glob("*.safetensors"))) > 1
    settings = ModelSettings(source=folder)
    made = load_backbone(settings, folder, CLASSES, ["a", "b"], tmp_path / "cache", seed=3)
    monkeypatch.setattr(mapped, "LEAST", 1 << 30)
    plain = load_backbone(settings, folder, CLASSES, ["a", "b"], tmp_path / "none", seed=3)
    assert not (tmp_path / "none").exists()
    assert made.fresh_modules == plain.fresh_modules
    assert made.name_or_path == plain.name_or_path == folder
    for (name, one), other in zip(made.state_dict().items(), plain.state_dict().values(),
                                  strict=True):  # fmt: skip
        assert torch.equal(one, other), name


def test_a_copy_of_the_same_weights_is_cast_once(source, tmp_path):
    one = stored(source, "llama", "bfloat16", tmp_path / "one")
    other = stored(source, "llama", "bfloat16", tmp_path / "other")
    for folder in (one, other, one):
        load_backbone(ModelSettings(source=folder), folder, NEXT, [], tmp_path / "cache")
    assert len(list((tmp_path / "cache" / "bases").glob("float32-*[0-9a-f]"))) == 1


def test_where_the_cache_has_no_room_a_base_loads_as_it_did(source, tmp_path, caplog, monkeypatch):
    folder = stored(source, "llama", "bfloat16", tmp_path)
    monkeypatch.setattr(mapped.shutil, "disk_usage", lambda place: SimpleNamespace(free=0))
    model = load_backbone(ModelSettings(source=folder), folder, NEXT, [], tmp_path / "cache")
    assert model.get_input_embeddings().weight.dtype == torch.float32
    assert "each holds a copy of its own" in caplog.text


def test_a_model_that_keeps_float32_parts_is_left_as_it_is(source, tmp_path, monkeypatch):
    folder = source("llama")
    kind = type(auto_model(NEXT).from_pretrained(folder))
    monkeypatch.setattr(kind, "_keep_in_fp32_modules_strict", {"norm"})
    settings = ModelSettings(source=folder, dtype="bfloat16")
    model = load_backbone(settings, folder, NEXT, [], tmp_path / "cache")
    assert model.model.norm.weight.dtype == torch.float32
    assert not (tmp_path / "cache").exists()


def test_full_training_has_values_of_its_own(source, tmp_path):
    folder = stored(source, "llama", "bfloat16", tmp_path)
    settings = ModelSettings(source=folder, train="full")
    load_backbone(settings, folder, NEXT, [], tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
