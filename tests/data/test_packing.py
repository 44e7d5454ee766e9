"""Packed rows: every token once and in order, none padded, none of another owner."""

import datasets
import numpy as np
import pytest
from transformers import AutoTokenizer

from fedllm_app.core.errors import DataError
from fedllm_app.data.federated import stream
from fedllm_app.data.packing import prepare_packed
from fedllm_app.data.source import DataSettings, Source
from fedllm_app.data.table import Table

T = 5
WORDS = ("the", "sun", "moon", "sea", "ice", "sand", "rock")
TEXTS = [" ".join(WORDS[(i + j) % 7] for j in range(i % 4)) for i in range(4000)]
USERS = [f"source-{i % 3}" for i in range(4000)]


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return AutoTokenizer.from_pretrained(tiny.root / "llama")


def packed(tmp_path, tokenizer, rows, T=T, **settings):
    file = tmp_path / "train.arrow"
    own = DataSettings(**settings)
    source = Source("data.train", "/rows", settings=own)
    prepare_packed(datasets.Dataset.from_dict(rows), source, own, tokenizer, T, None, file)
    return Table.open(file)


def test_rows_are_the_documents_of_each_owner_one_after_the_other(tmp_path, tokenizer):
    table = packed(tmp_path, tokenizer, {"text": TEXTS, "user": USERS})
    assert table.column("input_ids").type.list_size == T
    assert table.column("input_ids").num_chunks > 1
    users = np.array(table.column("user").to_pylist())
    arrays = table.select_columns(["input_ids", "starts"]).arrays(np.arange(len(table)))
    for owner in ("source-0", "source-1", "source-2"):
        documents = [
            [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
            for text, user in zip(TEXTS, USERS, strict=True)
            if user == owner and text
        ]
        whole = [token for document in documents for token in document]
        rows = np.flatnonzero(users == owner)
        assert arrays["input_ids"][rows].ravel().tolist() == whole[: len(whole) // T * T]
        begins = np.cumsum([0, *map(len, documents)])
        ours = [T * list(rows).index(r) + at for r, at in arrays["starts"] if r in set(rows)]
        assert ours == [b for b in begins if b < len(rows) * T]


def test_arrays_are_the_rows_that_are_asked_for(tmp_path, tokenizer):
    table = packed(tmp_path, tokenizer, {"text": TEXTS})
    some = table.select(np.array([7, 1500, 3, 7]))
    asked = np.array([1, 0, 2])
    lists = some[asked]
    arrays = some.select_columns(["input_ids", "starts", "source_row"]).arrays(asked)
    assert arrays["input_ids"].tolist() == lists["input_ids"]
    assert arrays["input_ids"].dtype == np.uint16
    assert arrays["source_row"].tolist() == lists["source_row"]
    pairs = [[i, start] for i, starts in enumerate(lists["starts"]) for start in starts]
    assert arrays["starts"].tolist() == pairs


def test_joined_documents_have_no_starts(tmp_path, tokenizer):
    table = packed(tmp_path, tokenizer, {"text": TEXTS}, documents="joined")
    assert not np.any(table.numbers("starts"))


def test_text_that_fills_no_row_is_refused(tmp_path, tokenizer):
    with pytest.raises(DataError, match=r"fills no row of task\.max-tokens = 64: there are 9 tok"):
        packed(tmp_path, tokenizer, {"text": ["the sun", "the moon", "the sea"]}, 64)


def test_a_stream_has_every_row_once_and_then_again_in_another_order():
    rows = np.arange(100, 110)
    batches = stream(rows, 0, 4, 0, "a")
    read = np.concatenate([next(batches) for _ in range(5)])
    assert sorted(read[:10]) == sorted(read[10:]) == rows.tolist()
    assert read[:10].tolist() != read[10:].tolist()
    assert next(stream(rows, 12, 4, 0, "a")).tolist() == read[12:16].tolist()
    assert next(stream(rows, 0, 10, 0, "b")).tolist() != read[:10].tolist()
    assert next(stream(rows, 0, 10, 1, "a")).tolist() != read[:10].tolist()
