"""The three real data sets, where they lie beside the checkout."""

import numpy as np
import pytest

from fedllm_app.data.federated import batches, federated_data
from fedllm_app.data.image import ImageSpec
from fedllm_app.data.partition import PartitionSettings
from fedllm_app.data.settings import DataSettings
from fedllm_app.tasks import TaskSettings

pytestmark = pytest.mark.real
CELL = PartitionSettings(name="dirichlet", clients=350, alpha=0.1)


def newsgroups(shared, **settings):
    file = shared / "20newsgroups" / "train.parquet"
    return DataSettings(train=str(file), strip="headers", **settings)


def test_newsgroups_over_350_unlike_clients(shared, tokenizer, tmp_path):
    data = newsgroups(shared, eval_examples=1000)
    one, two = (
        federated_data(data, TaskSettings(max_tokens=64), CELL, tokenizer, 3, tmp_path / cache)
        for cache in ("one", "two")
    )
    assert one.counts.sum() == 11_314
    assert len(one.clients) == 350
    assert len(one.labels) == 20
    assert one.labels[0] == "alt.atheism"
    assert len(one.evaluation) == 1000
    np.testing.assert_array_equal(one.partition.order, two.partition.order)
    np.testing.assert_array_equal(one.counts, two.counts)


def test_minilm_tokenizes_newsgroups(shared, minilm_folder, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm_folder)
    made = federated_data(
        newsgroups(shared), TaskSettings(max_tokens=64), CELL, tokenizer, 3, tmp_path
    )
    first = made.train[[0]]["input_ids"][0]
    assert len(first) <= 64
    assert "From:" not in tokenizer.decode(first)[:10]
    assert first[0] == tokenizer.cls_token_id
    assert first[-1] == tokenizer.sep_token_id


def test_shakespeare_by_role(shared, tokenizer, tmp_path):
    file = shared / "shakespeare-roles" / "speeches.parquet"
    task = TaskSettings(name="next-token", max_tokens=32)
    law = PartitionSettings(name="natural")
    made = federated_data(DataSettings(train=str(file)), task, law, tokenizer, 0, tmp_path)
    assert 1200 < len(made.clients) <= 1347
    assert "A Midsummer Night's Dream | THESEUS" in made.number
    assert (made.counts > 0).all()
    assert made.counts.sum() + len(made.evaluation) == len(made.train)


def test_cifar10_batches(shared, tmp_path):
    task = TaskSettings(name="image-classification")
    data = DataSettings(train=str(shared / "cifar10" / "train.parquet"))
    law = PartitionSettings(name="dirichlet", clients=40_000, alpha=0.1)
    made = federated_data(data, task, law, None, 0, tmp_path)
    assert (len(made.train), len(made.evaluation), len(made.labels)) == (50_000, 10_000, 10)
    assert made.counts.sum() == 50_000
    collate = task.kind.make(0, ImageSpec(side=56)).collate
    batch = next(batches(made.evaluation, np.arange(16), 16, None, collate))
    assert batch["pixel_values"].shape == (16, 3, 56, 56)
    assert batch["labels"].shape == (16,)
    assert abs(batch["pixel_values"].mean()) < 2


def test_four_sources_are_packed_each_for_a_client_of_its_own(shared, tokenizer, tmp_path):
    place, T = shared / "pretraining", 128
    data = DataSettings(
        train=str(place), train_split="validation", user_column="folder",
        test=str(place / "techdocs" / "validation.parquet"),
    )  # fmt: skip
    task = TaskSettings(name="pretraining", max_tokens=T)
    made = federated_data(data, task, PartitionSettings(name="natural"), tokenizer, 0, tmp_path)
    assert made.clients == ["literature", "techdocs", "textbooks", "wikipedia"]
    assert made.counts.min() > 500
    assert made.train.arrays(made.rows(0))["input_ids"].shape == (made.counts[0], T)
    assert "tokens that fill no row" in made.notes.lines()["left out"]
