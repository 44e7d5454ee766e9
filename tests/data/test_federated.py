"""What a federation and a device see of their data, from the file to the batch."""

import json
from dataclasses import replace

import datasets
import numpy as np
import pyarrow
import pytest

from fedllm_app.core.errors import DataError
from fedllm_app.data import federated
from fedllm_app.data.federated import batches, federated_data, node_data
from fedllm_app.data.partition import PartitionSettings
from fedllm_app.data.settings import DataSettings
from fedllm_app.data.table import Table
from fedllm_app.tasks import TASKS, TaskSettings

TASK = TaskSettings(max_tokens=8)
FOUR = PartitionSettings(clients=4)


def write(file, n=40, **columns):
    """Write n rows: row i has 1 + i % 5 words, label i % 2, user u0..u3 (i % 4)."""
    words = ["a", "b", "c", "d", "e"]
    rows = [
        {"text": " ".join(words[: 1 + i % 5]), "label": "xy"[i % 2], "user": f"u{i % 4}"}
        for i in range(n)
    ]
    file.write_text("".join(json.dumps({**row, **columns}) + "\n" for row in rows))
    return str(file)


def values(table):
    """Return all that is seen of a table, by column."""
    return table[range(len(table))]


@pytest.fixture
def run(tokenizer, tmp_path):
    def build(task=TASK, partition=FOUR, seed=1, **data):
        return federated_data(
            DataSettings(**data), task, partition, tokenizer, seed, tmp_path / "cache"
        )

    return build


def test_a_share_is_held_out_where_there_is_no_test_set(run, tmp_path):
    made = run(train=write(tmp_path / "rows.jsonl"))
    assert len(made.evaluation) == 4  # a tenth of 40
    assert made.counts.tolist() == [9, 9, 9, 9]
    assert made.labels == ["x", "y"]
    assert made.train.column_names == ["input_ids", "label"]
    assert made.clients == ["0", "1", "2", "3"]
    assert made.number["3"] == 3


def test_the_test_file_beside_train_is_used_and_nothing_is_held_out(run, tmp_path):
    write(tmp_path / "test.jsonl", n=7)
    made = run(train=write(tmp_path / "train.jsonl"))
    assert len(made.evaluation) == 7
    assert made.counts.sum() == 40


def test_validation_is_never_trained_on_and_leaves_the_test_share_alone(run, tmp_path):
    file = write(tmp_path / "rows.jsonl")
    test, tuned = run(train=file), run(train=file, evaluate_on="validation")
    assert tuned.counts.sum() == 32  # without the share for the test, and that for tuning
    assert set(tuned.partition.order) < set(test.partition.order)
    write(tmp_path / "test.jsonl", n=7)
    both = run(train=write(tmp_path / "train.jsonl"), evaluate_on="validation")
    assert len(both.evaluation) == 4
    assert both.counts.sum() == 36


def test_what_is_held_out_does_not_depend_on_the_seed_and_the_partition_does(run, tmp_path):
    file = write(tmp_path / "rows.jsonl")
    one, two = run(train=file, seed=1), run(train=file, seed=2)
    assert set(one.partition.order) == set(two.partition.order)
    assert one.partition.order.tolist() != two.partition.order.tolist()


def test_evaluation_is_a_fixed_subset_sorted_by_length(run, tmp_path):
    write(tmp_path / "test.jsonl", n=30)
    file = write(tmp_path / "train.jsonl")
    first, again = (run(train=file, seed=s, eval_examples=10).evaluation for s in (1, 2))
    lengths = [len(ids) for ids in values(first)["input_ids"]]
    assert len(lengths) == 10
    assert lengths == sorted(lengths)
    assert values(first) == values(again)


def test_blocks_of_a_held_out_text_are_held_out_together(run, tmp_path):
    texts = [" ".join(w * 6) for w in "abcde" for _ in range(4)]  # 6 equal words each
    rows = "".join(json.dumps({"text": t}) + "\n" for t in texts)
    (tmp_path / "rows.jsonl").write_text(rows)
    made = run(TaskSettings(name="next-token", max_tokens=2), train=str(tmp_path / "rows.jsonl"))
    assert len(made.evaluation) == 2 * 4  # two texts of four blocks: six words and an end
    assert made.counts.sum() == 18 * 4
    assert made.labels == []


def test_natural_clients_are_users(run, tmp_path):
    made = run(partition=PartitionSettings(name="natural"), train=write(tmp_path / "rows.jsonl"))
    assert made.clients == ["u0", "u1", "u2", "u3"]
    assert made.counts.sum() == 36


def test_prepared_data_are_opened_without_the_tokenizer_or_the_source(run, tmp_path, monkeypatch):
    file = write(tmp_path / "rows.jsonl")
    first = run(train=file)
    monkeypatch.setattr(federated.Source, "load", lambda *a: pytest.fail("read again"))
    second = run(train=file)
    assert values(second.train) == values(first.train)
    np.testing.assert_array_equal(second.rows(2), first.rows(2))


@pytest.mark.parametrize("change", [{"strip": "headers"}, {"labels": "x,y,z"}, {"file": 41}])
def test_whatever_matters_prepares_again(run, tmp_path, change):
    before = run(train=write(tmp_path / "rows.jsonl"))
    file = write(tmp_path / "rows.jsonl", change.pop("file", 40))
    run(train=file, **change)
    prepared = [p for p in (tmp_path / "cache" / "data").iterdir() if p.is_dir()]
    assert len(prepared) == 2
    assert len(before.train) == 40


def test_a_device_reads_its_own_file(tokenizer, tmp_path):
    own = write(tmp_path / "own.jsonl", n=5, label="y")
    settings = DataSettings(train="node", labels="x,y")
    made = node_data(own, settings, TASK, tokenizer, tmp_path / "cache")
    assert values(made)["label"][:] == [1] * 5
    with pytest.raises(DataError, match=r"data\.labels"):
        node_data(own, DataSettings(train="node"), TASK, tokenizer, tmp_path / "cache")
    with pytest.raises(DataError, match="absolute"):
        node_data("own.jsonl", settings, TASK, tokenizer, tmp_path / "cache")
    with pytest.raises(DataError, match="node-config data-path"):
        node_data(tmp_path / "none.csv", settings, TASK, tokenizer, tmp_path / "cache")


def test_the_server_of_devices_has_a_test_set_or_nothing(run, tmp_path):
    made = run(train="node", test=write(tmp_path / "rows.jsonl", n=6))
    assert (len(made.train), len(made.evaluation), made.labels) == (0, 6, ["x", "y"])
    assert (made.clients, made.counts.tolist()) == ([], [])
    assert run(train="node", labels="3").labels == ["0", "1", "2"]
    with pytest.raises(DataError, match=r"data\.labels"):
        run(train="node")


def test_test_labels_outside_the_label_set_are_named(run, tmp_path):
    write(tmp_path / "test.jsonl", label="z")
    with pytest.raises(DataError, match=r"test\.jsonl.*'z' in row 0"):
        run(train=write(tmp_path / "train.jsonl"))
    assert not [p for p in (tmp_path / "cache" / "data").iterdir() if p.is_dir()]


def test_batches_are_one_epoch():
    rows = Table(pyarrow.table({"input_ids": [[i] for i in range(10)], "label": [0] * 10}))
    collate = TASK.kind.make(0, None).collate
    chosen = np.array([8, 1, 5, 3, 9])
    seen = [
        [b["input_ids"][:, 0].tolist() for b in batches(rows, chosen, 2, rng, collate)]
        for rng in (None, np.random.default_rng(0), np.random.default_rng(0))
    ]
    assert seen[0] == [[8, 1], [5, 3], [9]]
    assert seen[1] == seen[2] != seen[0]
    assert sorted(i for batch in seen[1] for i in batch) == sorted(chosen)
    assert list(batches(rows, chosen[:0], 2, None, collate)) == []


def test_embedded_text_needs_no_file(run, tmp_path, monkeypatch):
    from fedllm_app.demo import texts

    made = datasets.Dataset.from_dict(
        {"text": ["a b", "c d"] * 10, "label": [0, 1] * 10, "label_name": ["ax", "by"] * 10}
    )
    monkeypatch.setattr(texts, "embedded_texts", lambda task, cache: made)
    opened = run()
    assert opened.labels == ["ax", "by"]
    assert len(opened.evaluation) == 2


def test_a_task_that_prepares_no_column_of_its_own_is_told(run, tmp_path, monkeypatch):
    kind = replace(TASKS["next-token"], columns=("input_ids", "prompt"))
    monkeypatch.setitem(TASKS, "next-token", kind)
    with pytest.raises(DataError, match=r"'next-token', whose prepare wrote no column 'prompt'"):
        run(TaskSettings(name="next-token"), train=write(tmp_path / "rows.jsonl"))


def test_a_table_keeps_users_texts_and_labels_as_they_are_written(run, tmp_path):
    rows = [("a b", "3", "007"), ("NA", "25", "7"), ("null", "10", "NA"), ("b c", "3", "7")]
    for name, some in (("train", rows * 5), ("test", rows)):
        text = "text,label,user\n" + "".join(",".join(row) + "\n" for row in some)
        (tmp_path / f"{name}.csv").write_text(text)
    made = run(partition=PartitionSettings(name="natural"), train=str(tmp_path / "train.csv"))
    assert made.labels == ["3", "10", "25"]
    assert made.clients == ["007", "7", "NA"]
    assert made.counts.tolist() == [5, 10, 5]
    assert values(made.train)["label"][:4] == [0, 2, 1, 0]
    assert made.notes.lines() == {"classes": "3: 3 10, 10 5, 25 5"}


def test_what_is_dropped_is_said_whenever_the_data_are_opened(run, tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("text,label\n" + "a,0\nb,1\n" * 20 + "c,\n,1\n")
    with pytest.raises(DataError, match=r"2 of 42 rows cannot be used: 1 with no text \(row 41\);"):
        run(train=str(file))
    for _ in range(2):
        made = run(train=str(file), bad_rows="drop")
        assert made.notes.lines() == {
            "classes": "2: 0 20, 1 20",
            "left out": "train: 1 with no text (row 41); 1 with no label (row 40)",
        }
        assert len(made.train) == 40
        assert values(made.train)["label"][:4] == [0, 1, 0, 1]
