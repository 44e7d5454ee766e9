"""Partitions against those of flwr-datasets, row by row."""

import time

import datasets
import numpy as np
import pytest
from flwr_datasets.partitioner import (
    DirichletPartitioner,
    IidPartitioner,
    NaturalIdPartitioner,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fedllm_app.core.errors import DataError
from fedllm_app.core.seeds import derive_seed
from fedllm_app.data.partition import Partition, PartitionSettings
from fedllm_app.data.partition import partition as partition_of
from fedllm_app.data.table import Table


def partition(data, *others):
    """Deal out a data set of flwr-datasets' kind."""
    return partition_of(Table(data.data.table), *others)


def labelled(n, classes=5):
    labels = np.random.default_rng(0).integers(0, classes, n)
    return datasets.Dataset.from_dict({"row": np.arange(n), "label": labels})


@pytest.mark.parametrize("name", ["iid", "dirichlet"])
def test_every_row_has_one_owner_and_the_seed_decides(name):
    data, law = labelled(500), PartitionSettings(name=name, clients=40)
    first, again, other = (partition(data, law, seed) for seed in (1, 1, 2))
    assert sorted(first.order.tolist()) == list(range(500))
    assert first.counts.sum() == 500
    assert first.clients == [str(i) for i in range(40)]
    np.testing.assert_array_equal(first.order, again.order)
    np.testing.assert_array_equal(first.starts, again.starts)
    assert first.order.tolist() != other.order.tolist()


def test_dirichlet_is_that_of_flwr_datasets_and_some_clients_are_empty():
    data = labelled(300)
    ours = partition(data, PartitionSettings(name="dirichlet", clients=50, alpha=0.1), 3)
    theirs = DirichletPartitioner(
        50,
        "label",
        0.1,
        min_partition_size=0,
        self_balancing=False,
        seed=derive_seed(3, "partition"),
    )
    theirs.dataset = data
    for i in range(50):
        assert ours.rows(i).tolist() == theirs.load_partition(i)["row"][:]
    assert (ours.counts == 0).any()


def test_small_alpha_is_unlike_and_large_alpha_is_alike():
    data = labelled(2000, classes=4)
    labels = np.asarray(data["label"][:])

    def purity(alpha):
        dealt = partition(data, PartitionSettings(name="dirichlet", clients=10, alpha=alpha), 0)
        parts = [labels[dealt.rows(i)] for i in range(10)]
        return np.mean([np.bincount(p).max() / len(p) for p in parts if len(p)])

    assert purity(0.05) > 0.6 > 0.35 > purity(1000.0)


def test_iid_sizes_are_those_of_flwr_datasets():
    data = labelled(103)
    ours = partition(data, PartitionSettings(name="iid", clients=10), 3)
    theirs = IidPartitioner(10)
    theirs.dataset = data
    assert ours.counts.tolist() == [len(theirs.load_partition(i)) for i in range(10)]


def test_natural_is_that_of_flwr_datasets():
    users = ["bo", "al", "bo", "cy", "al", "bo"]
    data = datasets.Dataset.from_dict({"row": range(6), "user": users})
    ours = partition(data, PartitionSettings(name="natural"), 0)
    theirs = NaturalIdPartitioner("user")
    theirs.dataset = data
    assert ours.clients == ["al", "bo", "cy"]
    assert [ours.rows(i).tolist() for i in range(3)] == [[1, 4], [0, 2, 5], [3]]
    for i in range(3):
        assert ours.rows(i).tolist() == theirs.load_partition(i)["row"][:]
        assert theirs.partition_id_to_natural_id[i] == ours.clients[i]


@given(st.sets(st.integers(0, 59), min_size=5), st.sampled_from(["iid", "dirichlet"]))
@settings(max_examples=20, deadline=None)
def test_only_the_rows_asked_for_are_dealt(rows, name):
    data = labelled(60)
    law = PartitionSettings(name=name, clients=5)
    dealt = partition(data, law, 0, np.array(sorted(rows)))
    assert set(dealt.order.tolist()) == rows
    assert len(dealt.order) == len(rows)


def test_a_saved_partition_opens_equal(tmp_path):
    dealt = partition(labelled(50), PartitionSettings(name="dirichlet", clients=9), 0)
    dealt.save(tmp_path)
    opened = Partition.open(tmp_path)
    assert opened.clients == dealt.clients
    for i in range(9):
        np.testing.assert_array_equal(opened.rows(i), dealt.rows(i))


@pytest.mark.parametrize("name", ["iid", "dirichlet"])
def test_forty_thousand_clients_take_seconds(name):
    start = time.perf_counter()
    dealt = partition(labelled(50_000), PartitionSettings(name=name, clients=40_000), 0)
    assert dealt.counts.sum() == 50_000
    assert time.perf_counter() - start < 20  # 2 s when nothing else runs


def test_what_is_missing_is_named():
    with pytest.raises(DataError, match=r"partition\.clients is 20.*3 training"):
        partition(labelled(3), PartitionSettings(), 0)
    with pytest.raises(DataError, match=r"natural.*data\.user-column"):
        partition(labelled(30), PartitionSettings(name="natural"), 0)
    unlabelled = datasets.Dataset.from_dict({"user": ["a", None]})
    with pytest.raises(DataError, match=r"dirichlet.*data\.domain-column"):
        partition(unlabelled, PartitionSettings(name="dirichlet", clients=2), 0)
    with pytest.raises(DataError, match="row 1"):
        partition(unlabelled, PartitionSettings(name="natural"), 0)
