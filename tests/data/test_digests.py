"""A digest is of the values: neither how they lie in a file nor where it is matters."""

from itertools import pairwise

import numpy as np
import pyarrow
import pytest

from fedllm_app.data.digests import BLOCK, data_digests, table_digest
from fedllm_app.data.federated import FederatedData
from fedllm_app.data.partition import Partition
from fedllm_app.data.table import Table

N = 2 * BLOCK + 7


def table(pieces=1, change=None, names=("input_ids", "label")):
    ids = [[i % 7, i % 5][: 1 + i % 2] for i in range(N)]
    label = [None if i % 11 == 0 else i % 3 for i in range(N)]
    if change is not None:
        ids[change] = [8]
    whole = pyarrow.table({"input_ids": ids, "label": label, "unseen": label})
    edges = np.linspace(0, N, pieces + 1).astype(int)
    parts = [whole.slice(a, b - a) for a, b in pairwise(edges)]
    return Table(pyarrow.concat_tables(parts), names)


@pytest.mark.parametrize("pieces", [2, 3, 50])
def test_the_pieces_that_a_table_lies_in_do_not_matter(pieces):
    assert table_digest(table(pieces)) == table_digest(table())


@pytest.mark.parametrize("change", [0, BLOCK, N - 1])
def test_every_row_matters(change):
    assert table_digest(table(change=change)) != table_digest(table())


def test_columns_and_the_number_of_rows_that_are_seen_matter():
    found = {table_digest(table()), table_digest(table(names=("label", "input_ids")))}
    found |= {table_digest(table().select(np.arange(3))), table_digest(Table.empty())}
    assert len(found) == 4


def test_the_parts_of_a_federation_are_told_apart():
    owners = Partition(["a", "b"], np.arange(N), np.array([0, 5, N]))
    others = Partition(["a", "b"], np.arange(N), np.array([0, 6, N]))
    data = FederatedData(table(), Table.empty(), ["x"], owners)
    before, now = data_digests(data), data_digests(FederatedData(table(), table(), ["y"], others))
    assert {name for name in before if before[name] != now[name]} == {
        "evaluation", "labels", "partition",
    }  # fmt: skip
