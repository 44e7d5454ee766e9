"""Data sets and partition laws by MODULE:NAME: what they are asked, refused for, and kept under."""

import sys

import datasets
import numpy as np
import pytest

from fedllm_app.core.errors import ConfigError, DataError
from fedllm_app.data.federated import federated_data
from fedllm_app.data.own import is_own, own_identity
from fedllm_app.data.partition import PartitionSettings, partition
from fedllm_app.data.places import source_of_test, source_of_train
from fedllm_app.data.settings import DataSettings
from fedllm_app.data.table import Table
from fedllm_app.tasks import TaskSettings

ROWS = """
import datasets

def rows(settings, split):
    if split == "test" and settings.config != "tested":
        return None
    many = 20 if split == "train" else 4
    return datasets.Dataset.from_dict(
        {"text": ["a b", "c d"] * many, settings.label_column: [0, 1] * many}
    )

def nothing(settings, split):
    return None

def broken(settings, split):
    return 1 / 0

def odd_and_even(table, rows, settings, seed):
    return {"even": rows[rows % 2 == 0], "odd": rows[rows % 2 == 1]}

def twice(table, rows, settings, seed):
    return {"a": rows, "b": rows[:1]}

def strange(table, rows, settings, seed):
    return {"a": rows + 1}

def numbered(table, rows, settings, seed):
    return {1: rows}

def words(table, rows, settings, seed):
    return {"a": ["row"]}
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Write a module that can be imported, and return its file."""
    file = tmp_path / "rows_of_mine.py"
    file.write_text(ROWS)
    monkeypatch.syspath_prepend(tmp_path)
    yield file
    sys.modules.pop("rows_of_mine", None)


def opened(tokenizer, cache, law="iid", **data):
    settings = DataSettings(train="rows_of_mine:rows", **data)
    dealt = PartitionSettings(name=law, clients=4)
    return federated_data(settings, TaskSettings(), dealt, tokenizer, 0, cache)


def test_a_function_gives_train_and_test(mine, tokenizer, tmp_path):
    made = opened(tokenizer, tmp_path, config="tested", label_column="topic")
    assert (len(made.train), len(made.evaluation), made.labels) == (40, 8, ["0", "1"])


def test_without_test_rows_a_share_of_train_is_held_out(mine, tokenizer, tmp_path):
    made = opened(tokenizer, tmp_path)
    assert (len(made.evaluation), int(made.counts.sum())) == (4, 36)


def test_a_law_deals_out_the_rows_that_are_trained_on(mine, tokenizer, tmp_path):
    made = opened(tokenizer, tmp_path, law="rows_of_mine:odd_and_even")
    assert made.clients == ["even", "odd"]
    assert int(made.counts.sum()) == 36
    assert (made.rows(0) % 2 == 0).all()
    assert (made.rows(1) % 2 == 1).all()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("twice", "gives row 3 to two clients"),
        ("strange", "deals out row 6, which is no training row"),
        ("numbered", "no dict from names of clients"),
        ("words", "other than an array of whole numbers"),
    ],
)
def test_a_law_that_makes_no_partition_is_refused(mine, name, why):
    table, settings = Table.empty(), PartitionSettings(name=f"rows_of_mine:{name}")
    with pytest.raises(DataError, match=f"partition.name is 'rows_of_mine:{name}', which .*{why}"):
        partition(table, settings, 0, np.array([3, 4, 5]))


def test_a_function_that_gives_no_rows_or_fails_is_told_by_its_key(mine, tmp_path):
    def load(name):
        settings = DataSettings(train=f"rows_of_mine:{name}")
        source_of_train(settings).load("", tmp_path, tmp_path)

    with pytest.raises(DataError, match=r"data\.train='rows_of_mine:nothing' gives a NoneType"):
        load("nothing")
    with pytest.raises(DataError, match=r"data\.train='rows_of_mine:broken' .*ZeroDivisionError"):
        load("broken")
    with pytest.raises(ConfigError, match=r"data\.train is 'rows_of_mine:gone'"):
        load("gone")


def test_what_is_prepared_hangs_on_the_modules_source_and_on_the_settings(mine):
    settings = DataSettings(train="rows_of_mine:rows")
    before = source_of_train(settings).identity()
    assert source_of_test(settings).identity() != before
    other = DataSettings(train="rows_of_mine:rows", config="tested")
    assert source_of_train(other).identity() != before
    mine.write_text(ROWS + "# changed\n")
    assert source_of_train(settings).identity() != before
    assert own_identity("iid") == own_identity("some/model") == []
    assert not is_own("/data/a:b.jsonl")


def test_a_data_set_in_memory_is_prepared_like_any(mine, tokenizer, tmp_path):
    raw = source_of_train(DataSettings(train="rows_of_mine:rows")).load("", tmp_path, tmp_path)
    assert isinstance(raw.rows, datasets.Dataset)
