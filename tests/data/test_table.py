"""Prepared rows, as datasets would give them, without datasets."""

import subprocess
import sys

import datasets
import numpy as np
import pyarrow
import pytest

from fedllm_app.data.table import Table

ROWS = {"input_ids": [[i, i + 1][: 1 + i % 2] for i in range(7)], "label": list(range(7))}


@pytest.fixture
def written(tmp_path):
    """Return a file of several batches, and what it holds as datasets reads it."""
    file = tmp_path / "train.arrow"
    made = datasets.Dataset.from_dict(ROWS)
    made.map(lambda batch: batch, batched=True, cache_file_name=str(file), writer_batch_size=3)
    return file, datasets.Dataset.from_file(str(file))


def test_rows_in_any_order_are_those_of_datasets(written):
    file, theirs = written
    ours = Table.open(file)
    assert len(ours) == len(theirs) == 7
    assert ours.column("label").num_chunks > 1
    for rows in ([6, 0, 3, 3], [2], []):
        assert ours[rows] == theirs[rows]
    assert ours.column_names == theirs.column_names


def test_a_selection_of_a_selection(written):
    file, theirs = written
    chosen, again = np.array([5, 1, 6, 2]), np.array([2, 0])
    ours = Table.open(file).select(chosen).select(again).select_columns(["label"])
    assert len(ours) == 2
    assert ours[[0, 1]] == {"label": [6, 5]}
    assert ours[[0, 1]] == theirs.select(chosen).select(again).select_columns(["label"])[[0, 1]]
    assert ours.column("input_ids").to_pylist() == ROWS["input_ids"]  # of the whole table


def test_nothing_is_a_table_too():
    assert len(Table.empty()) == 0
    assert Table.empty().column_names == []
    assert len(Table(pyarrow.table({"a": []}))[[]]["a"]) == 0


def test_opening_needs_neither_datasets_nor_pandas(written):
    program = (
        "import sys; from pathlib import Path; from fedllm_app.data.table import Table;"
        "print(Table.open(Path(sys.argv[1]))[[4]], {'datasets', 'pandas'} & set(sys.modules))"
    )
    words = [sys.executable, "-c", program, str(written[0])]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert printed == "{'input_ids': [[4]], 'label': [4]} set()\n"


def test_numbers_of_a_column_and_lengths_of_lists_without_pandas(written):
    program = (
        "import sys; from pathlib import Path; from fedllm_app.data.table import Table;"
        "t = Table.open(Path(sys.argv[1]));"
        "print(*t.numbers('label'), *t.numbers('input_ids'), 'pandas' in sys.modules)"
    )
    words = [sys.executable, "-c", program, str(written[0])]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert printed == "0 1 2 3 4 5 6 1 2 1 2 1 2 1 False\n"
    assert len(Table(pyarrow.table({"a": pyarrow.array([], pyarrow.int64())})).numbers("a")) == 0
