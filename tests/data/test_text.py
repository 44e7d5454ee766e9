"""Texts from words to rows of token numbers."""

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedllm_app.core.errors import DataError
from fedllm_app.data.settings import DataSettings
from fedllm_app.data.source import Source
from fedllm_app.data.text import prepare_text, strip_headers, tokenizer_identity, truncated

SOURCE = Source("data.train", "/x.parquet")


def prepare(rows, tokenizer, tmp_path, max_tokens=4, labels=None, **settings):
    file = tmp_path / "rows.arrow"
    raw = datasets.Dataset.from_dict(rows)
    prepare_text(raw, SOURCE, DataSettings(**settings), tokenizer, max_tokens, labels, file)
    return datasets.Dataset.from_file(str(file)).to_dict()


def test_headers_end_at_the_first_blank_line():
    assert strip_headers("From: x\nLines: 2\n\nbody\n\nmore") == "body\n\nmore"
    assert strip_headers("From: x\r\n\r\nbody") == "body"
    assert strip_headers("no header at all") == "no header at all"


def test_classification_truncates_and_keeps_one_row_per_text(tokenizer, tmp_path):
    rows = {"text": ["a b c d e", "b"], "label": ["y", "x"], "user": [7, 8]}
    assert prepare(rows, tokenizer, tmp_path, labels=["x", "y"]) == {
        "input_ids": [[3, 4, 5, 6], [4]],
        "label": [1, 0],
        "user": ["7", "8"],
        "source_row": [0, 1],
    }


def test_next_token_cuts_into_blocks_that_know_their_text(tokenizer, tmp_path):
    # Five words and an end make four and two; an empty line makes none.
    end = tokenizer.eos_token_id
    rows = {"text": ["a b c d e", " ", "a b c d"], "label": [5, 6, 7]}
    assert prepare(rows, tokenizer, tmp_path) == {
        "input_ids": [[3, 4, 5, 6], [7, end], [3, 4, 5, 6], [6, end]],
        "label": [5, 5, 7, 7],
        "source_row": [0, 0, 2, 2],
    }


def test_a_text_that_is_all_header_stays_an_example(tokenizer, tmp_path):
    rows = {"text": ["From: a\n\n", "x\n\nb"], "label": [0, 1]}
    made = prepare(rows, tokenizer, tmp_path, labels=["0", "1"], strip="headers")
    assert made["input_ids"] == [[tokenizer.eos_token_id], [4]]


@pytest.mark.parametrize("text", ["", "  \n", None])
def test_an_empty_text_names_its_row(tokenizer, tmp_path, text):
    rows = {"text": ["a", text], "label": [0, 1]}
    with pytest.raises(DataError, match=r"data\.text-column.*in row 1"):
        prepare(rows, tokenizer, tmp_path, labels=["0", "1"])


def test_nothing_to_predict_is_refused(tokenizer, tmp_path):
    with pytest.raises(DataError, match="two tokens"):
        prepare({"text": ["", " "]}, tokenizer, tmp_path)


def test_a_foreign_label_names_its_row(tokenizer, tmp_path):
    rows = {"text": ["a", "b"], "label": ["x", "z"]}
    with pytest.raises(DataError, match="'z' in row 1"):
        prepare(rows, tokenizer, tmp_path, labels=["x", "y"])


def test_identity_follows_the_vocabulary_and_not_the_last_call(tokenizer):
    before = tokenizer_identity(tokenizer)
    tokenizer(["a b c"], truncation=True, max_length=2, padding=True)
    assert tokenizer_identity(tokenizer) == before
    tokenizer.add_tokens(["f"])
    assert tokenizer_identity(tokenizer) != before


@given(st.lists(st.text(st.sampled_from("ab \n"), max_size=120), min_size=1, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_reading_only_the_head_of_a_text_changes_nothing(tokenizer, texts):
    whole = [tokenizer(text)["input_ids"][:2] for text in texts]
    assert truncated(texts, tokenizer, 2) == whole


def test_a_tokenizer_that_keeps_the_end_of_a_text_is_given_its_end(tokenizer):
    tokenizer.truncation_side = "left"
    text = " ".join(["a"] * 500 + ["b", "c", "d"])
    assert truncated([text], tokenizer, 3) == [tokenizer("b c d")["input_ids"]]
