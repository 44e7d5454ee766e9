"""Packed rows: every token once and in order, none padded, none of another owner."""

import itertools
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from transformers import AutoTokenizer

from fedllm_app.core.errors import DataError
from fedllm_app.data.federated import stream
from fedllm_app.data.packing import _pieces, prepare_packed
from fedllm_app.data.settings import DataSettings
from fedllm_app.data.source import Source
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


HELD = """
from pathlib import Path
import datasets
import numpy as np
from fedllm_app.data.packing import _pieces

# A row that was left out makes every read of several rows a gathering of single ones.
texts = [f"{i:06d} " * (1 + i % 20) for i in range(40_000)]
rows = datasets.Dataset.from_dict({"text": texts}).select(np.arange(1, 40_000)[::-1])

def held(name):
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))

_pieces(rows.select(range(1000)), "text")
Path("/proc/self/clear_refs").write_text("5")
before = held("VmRSS")
_pieces(rows, "text")
print((held("VmHWM") - before) / 1e6)
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak of a process"
)
def test_the_text_is_never_held_whole():
    words = [sys.executable, "-c", HELD]
    root = Path(__file__).parents[2]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 5, "MB; the whole column takes 26"


def test_what_is_tokenized_at_once_is_bounded_in_texts_and_characters():
    texts = [f"{i:04d} " * (50 + 1 + i % 800) for i in range(4000)]
    rows = datasets.Dataset.from_dict({"text": texts})
    # As if the sizes of all were looked at together.
    size_N = np.array([len(text) for text in texts])
    cuts = np.diff(np.cumsum(size_N) // (1 << 20)) | np.diff(np.arange(len(texts)) // 512)
    ends = [0, *(np.flatnonzero(cuts) + 1).tolist(), len(texts)]
    assert _pieces(rows, "text") == list(itertools.pairwise(ends)) and len(ends) > 12


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
