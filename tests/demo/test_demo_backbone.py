"""The demonstration backbone: loads with plain transformers, learns without labels, made once."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from fedllm_app.core.errors import DataError
from fedllm_app.demo import backbone as demo
from fedllm_app.demo.backbone import demo_backbone, pretrain, token_vectors

TASKS = ("sequence-classification", "next-token")
THEMES = (
    "the oak and the birch grow leaves in the forest beside the river and the moss",
    "the sailor ties a rope to the mast and the ship leaves the harbour with the tide",
    "the baker kneads flour and water and the bread rises in the oven before the dawn",
    "the judge reads the law and the jury hears the witness in the court of the town",
)
TEXTS = [f"{theme} {i} {theme}" for i in range(8) for theme in THEMES]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pre-train for three steps on a few sentences; the list records each time it was asked."""
    asked: list[str] = []
    monkeypatch.setattr(demo, "unused_texts", lambda task, cache: asked.append(task) or TEXTS)
    monkeypatch.setattr(demo, "STEPS", dict.fromkeys(TASKS, 3))
    return asked


def test_pretraining_has_the_backbone_of_next_token(tmp_path: Path, quick: list[str]) -> None:
    assert demo_backbone(tmp_path, "pretraining") == demo_backbone(tmp_path, "next-token")
    assert quick == ["next-token"]


@pytest.mark.parametrize("task", TASKS)
def test_the_folder_loads_with_plain_transformers(
    task: str, tmp_path: Path, quick: list[str]
) -> None:
    folder = demo_backbone(tmp_path, task)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(["the oak", "the sailor ties a rope"], padding=True, return_tensors="pt")
    if task == "next-token":
        model = AutoModelForCausalLM.from_pretrained(folder)
        width = len(tokenizer)
        assert batch["input_ids"][1, 0] != demo.START, "text is cut into blocks: no marks inside"
    else:
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=7)
        width = 7
        assert batch["input_ids"][0, 0] == tokenizer.cls_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id == demo.PAD
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert logits.shape[-1] == width and torch.isfinite(logits).all()


def test_a_second_call_trains_nothing(tmp_path: Path, quick: list[str]) -> None:
    first = demo_backbone(tmp_path, "next-token")
    assert demo_backbone(tmp_path, "next-token") == first
    assert quick == ["next-token"]
    assert {p.name for p in first.parent.iterdir()} <= {first.name, f"{first.name}.lock"}


def test_the_same_installation_gives_the_same_weights(tmp_path: Path) -> None:
    torch.manual_seed(1)
    pretrain(TEXTS, "sequence-classification", tmp_path / "a", 3)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    pretrain(TEXTS, "sequence-classification", tmp_path / "b", 3)
    assert torch.equal(before, torch.random.get_rng_state()), "draws nothing from the caller"
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("task", TASKS)
def test_the_loss_falls(task: str, tmp_path: Path) -> None:
    losses = pretrain(TEXTS, task, tmp_path / "model", 40)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_tokens_that_keep_the_same_company_point_the_same_way() -> None:
    import numpy as np

    # 1 and 2 stand only beside 3; 4 stands only beside 5.
    pieces = [np.array(p) for p in ([1, 3], [3, 1], [2, 3], [3, 2], [4, 5], [5, 4])] * 5
    vectors = torch.nn.functional.normalize(token_vectors(pieces, 6, 4), dim=1)
    assert vectors[1] @ vectors[2] > 0.99
    assert abs(vectors[1] @ vectors[4]) < 0.01


def test_another_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"task\.name is 'image-classification'"):
        demo_backbone(tmp_path, "image-classification")
