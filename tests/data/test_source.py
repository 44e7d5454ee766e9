"""Every kind of source, and what is said when it is not there."""

import json

import datasets
import pytest

from fedllm_app.core.errors import DataError
from fedllm_app.data.places import source_of_test, source_of_train
from fedllm_app.data.settings import DataSettings
from fedllm_app.data.source import Source, require_column

ROWS = {"text": ["one, two", 'three "quoted"\nline'], "label": [0, 1]}


def read(place, tmp_path, **kwargs):
    source = Source("data.train", str(place), **kwargs)
    raw = source.load("sequence-classification", tmp_path / "scratch", tmp_path / "cache")
    return None if raw is None else raw.rows


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_files_of_every_kind_give_the_same_rows(tmp_path, suffix):
    table = datasets.Dataset.from_dict(ROWS)
    write = {".parquet": table.to_parquet, ".jsonl": table.to_json, ".csv": table.to_csv}[suffix]
    write(str(tmp_path / f"rows{suffix}"))
    assert read(tmp_path / f"rows{suffix}", tmp_path).to_dict() == ROWS


def test_a_json_file_may_be_one_list(tmp_path):
    rows = [dict(zip(ROWS, row, strict=True)) for row in zip(*ROWS.values(), strict=True)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert read(tmp_path / "rows.json", tmp_path).to_dict() == ROWS


def test_saved_folders_are_read_alone_and_by_split(tmp_path):
    table = datasets.Dataset.from_dict(ROWS)
    table.save_to_disk(str(tmp_path / "alone"))
    parts = datasets.DatasetDict({"train": table, "test": table.select([1])})
    parts.save_to_disk(str(tmp_path / "both"))
    assert read(tmp_path / "alone", tmp_path).to_dict() == ROWS
    assert len(read(tmp_path / "both", tmp_path, split="test")) == 1
    assert read(tmp_path / "alone", tmp_path, split="test", beside=True, optional=True) is None
    with pytest.raises(DataError, match="no split 'dev'"):
        read(tmp_path / "both", tmp_path, split="dev")


@pytest.mark.parametrize("names", [["train.parquet"], ["data/train-0.parquet"]])
def test_a_folder_of_split_files_is_read(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        datasets.Dataset.from_dict(ROWS).to_parquet(str(tmp_path / name))
    assert read(tmp_path, tmp_path).to_dict() == ROWS


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_folder_for_each_source_gives_the_rows_of_all_and_their_folder(tmp_path, suffix):
    for folder, texts in (("books", ["a", "b"]), ("wiki", ["c"])):
        (tmp_path / folder).mkdir()
        for split in ("train", "validation"):
            rows = datasets.Dataset.from_dict({"text": [f"{split} {text}" for text in texts]})
            file = str(tmp_path / folder / f"{split}{suffix}")
            _ = rows.to_parquet(file) if suffix == ".parquet" else rows.to_json(file)
    found = read(tmp_path, tmp_path / "scratch")
    assert found["text"][:] == ["train a", "train b", "train c"]
    assert found["folder"][:] == ["books", "books", "wiki"]
    held = read(tmp_path, tmp_path / "scratch", split="validation")
    assert held["text"][:] == ["validation a", "validation b", "validation c"]


def test_a_test_file_counts_only_beside_a_file_named_train(tmp_path):
    for name in ("train.jsonl", "test.jsonl", "mine.jsonl"):
        (tmp_path / name).write_text('{"text": "a", "label": 0}\n')
    found = source_of_test(DataSettings(train=str(tmp_path / "train.jsonl")))
    assert found is not None
    assert found.place == str(tmp_path / "test.jsonl")
    assert source_of_test(DataSettings(train=str(tmp_path / "mine.jsonl"))) is None
    assert source_of_test(DataSettings(train="embedded")) is None


def test_identity_changes_with_the_file_and_does_not_read_it(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("not json at all")
    source = source_of_train(DataSettings(train=str(file)))
    before = source.identity()
    assert before == source.identity()
    file.write_text("not json at all, and longer")
    assert before != source.identity()


@pytest.mark.parametrize(
    ("content", "message"),
    [("{broken", "line 1 of .* has torn JSON"), ("", "holds no rows")],
)
def test_unreadable_files_name_key_and_path(tmp_path, content, message):
    file = tmp_path / "rows.jsonl"
    file.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read(file, tmp_path)
    assert "data.train" in str(caught.value)
    assert str(file) in str(caught.value)


def test_missing_and_unknown_paths_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "none.parquet", tmp_path)
    (tmp_path / "rows.txt").write_text("a")
    with pytest.raises(DataError, match=r"ends in '\.txt'"):
        read(tmp_path / "rows.txt", tmp_path)


def test_a_missing_column_lists_those_there_are():
    rows = datasets.Dataset.from_dict(ROWS)
    source = Source("data.train", "/x.csv")
    require_column(rows, "data.text-column", "text", source)
    with pytest.raises(DataError, match=r"'body'.*\['text', 'label'\]"):
        require_column(rows, "data.text-column", "body", source)
