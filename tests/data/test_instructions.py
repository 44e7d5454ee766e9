"""Conversations prepared: three shapes of rows, what is counted, and what is packed."""

import datasets
import pytest
from transformers import AutoTokenizer

from fedllm_app.core.errors import ConfigError, DataError
from fedllm_app.data.conversations import (
    NoConversationError,
    conversation,
    shape_of,
    without_oldest,
)
from fedllm_app.data.instructions import prepare_instructions
from fedllm_app.data.settings import DataSettings
from fedllm_app.data.source import Source
from fedllm_app.data.table import Table
from fedllm_app.data.templates import set_template

SOURCE = Source("data.train", "/data/chats.jsonl")
ASK, SAY = {"role": "user", "content": "the sun"}, {"role": "assistant", "content": "moon"}


@pytest.fixture
def tokenizer(tiny):
    made = AutoTokenizer.from_pretrained(tiny.root / "llama")
    set_template(made, "plain")
    return made


def prepared(rows, tokenizer, folder, T=32, packing=False, **settings):
    file = folder / "rows.arrow"
    said = prepare_instructions(
        datasets.Dataset.from_list(rows), SOURCE, DataSettings(**settings), tokenizer, T, None,
        file, packing,
    )  # fmt: skip
    table = Table.open(file)
    return table[list(range(len(table)))], said


@pytest.mark.parametrize(
    ("row", "settings"),
    [
        ({"messages": [ASK, SAY]}, {}),
        ({"messages": [ASK, SAY, ASK]}, {}),  # nothing is learned from what is not answered
        ({"messages": [ASK, SAY, ASK, {**SAY, "content": " "}]}, {}),
        ({"messages": [ASK, SAY, ASK, {**SAY, "content": None}]}, {}),
        ({"prompt": "the sun", "completion": "moon"}, {}),
        ({"prompt": [ASK], "completion": [SAY]}, {}),
        ({"instruction": "the", "input": "sun", "response": "moon"}, {}),
        ({"instruction": "the sun", "input": "", "response": "moon", "text": "x"}, {}),
        ({"q": "the sun", "a": "moon"}, {"instruction_column": "q", "response_column": "a"}),
    ],
)
def test_three_shapes_of_rows_are_told_by_their_columns(row, settings):
    settings = DataSettings(**settings)
    shape = shape_of(list(row), settings, SOURCE)
    ask, say = conversation(row, shape, settings)
    assert ask["content"].split() == ["the", "sun"]
    assert (ask["role"], say) == ("user", SAY)


def test_an_unknown_shape_is_refused_with_those_that_are_known_and_what_was_found():
    with pytest.raises(DataError) as caught:
        shape_of(["text", "output"], DataSettings(), SOURCE)
    for word in ("['text', 'output']", "messages", "prompt and completion", "'instruction' and "
                 "'response'", "data.response-column"):  # fmt: skip
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"messages": "hello"}, "messages is 'hello', which is no list"),
        ({"messages": [{"role": "human", "content": "a"}]}, "has the role 'human'; expected one"),
        ({"messages": [{"role": "user"}]}, "message 0 of messages is .* expected role and content"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "expected text"),
        ({"prompt": 3, "completion": "a"}, "prompt is 3"),
        ({"instruction": None, "response": "a"}, "instruction is None; expected text"),
    ],
)
def test_a_row_that_is_no_conversation_says_why(row, why):
    with pytest.raises(NoConversationError, match=why):
        conversation(row, shape_of(list(row), DataSettings(), SOURCE), DataSettings())


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASK, {**SAY, "content": None}]},
        {"prompt": "the sun", "completion": None},
        {"prompt": "the sun", "completion": ""},
        {"instruction": "the sun", "response": None},
    ],
)
def test_a_missing_response_is_none(row):
    assert not conversation(row, shape_of(list(row), DataSettings(), SOURCE), DataSettings())


def test_the_oldest_exchange_goes_with_all_that_answers_it():
    system, tool = {"role": "system", "content": "s"}, {"role": "tool", "content": "t"}
    whole = [system, ASK, SAY, tool, SAY, ASK, SAY]
    assert without_oldest(whole) == [system, ASK, SAY]
    assert without_oldest([system, ASK, SAY]) == []


def test_rows_are_prepared_with_their_responses_and_owners(tokenizer, tmp_path):
    rows = [
        {"messages": [ASK, SAY, ASK, SAY], "user": "ann", "domain": "sky"},
        {"messages": [ASK, {**SAY, "content": " "}], "user": "bob", "domain": None},
        {"messages": [ASK, SAY], "user": "bob", "domain": None},
    ]
    found, said = prepared(rows, tokenizer, tmp_path)
    assert said == "1 without a response are left out"
    assert (found["user"], found["domain"]) == (["ann", "bob"], ["sky", None])
    assert found["source_row"] == [0, 2]
    ids, spans = found["input_ids"][0], found["responses"][0]
    for begin, end in zip(spans[::2], spans[1::2], strict=True):
        assert tokenizer.convert_ids_to_tokens(ids[begin:end]) == ["moon", "[EOS]"]
    assert len(spans) == 4


def test_what_is_cut_and_left_out_is_said(tokenizer, tmp_path):
    long = {"role": "assistant", "content": "moon " * 40}
    rows = [{"messages": m} for m in ([ASK, SAY], [ASK, SAY, ASK, SAY], [ASK, long])]
    found, said = prepared(rows, tokenizer, tmp_path, T=12)
    assert said == (
        "1 rows are longer than task.max-tokens = 12 and lost their oldest turns; 1 lost the end "
        "of their response"
    )
    assert found["input_ids"][0] == found["input_ids"][1]
    with pytest.raises(DataError, match="nothing to learn: 3 of whose response nothing is left"):
        prepared(rows, tokenizer, tmp_path, T=5)


def test_a_bad_row_is_refused_by_its_number_or_dropped(tokenizer, tmp_path):
    rows = [{"prompt": "the sun", "completion": "moon"}, {"prompt": None, "completion": "moon"}]
    with pytest.raises(DataError, match=r"row 1 of .*prompt is None, which is no list"):
        prepared(rows, tokenizer, tmp_path)
    found, said = prepared(rows, tokenizer, tmp_path, bad_rows="drop")
    assert len(found["input_ids"]) == 1
    assert said.startswith("1 that are no conversation are left out (the first is row 1: prompt")


def test_packed_rows_hold_whole_conversations_of_one_owner(tokenizer, tmp_path):
    rows = [{"messages": [ASK, SAY], "user": user} for user in ("ann", "bob", "ann", "ann")]
    alone, _ = prepared(rows, tokenizer, tmp_path)
    size = len(alone["input_ids"][0])
    found, _ = prepared(rows, tokenizer, tmp_path, T=2 * size + 3, packing=True)
    assert sorted(found["user"]) == ["ann", "ann", "bob"]
    both = found["user"].index("ann")
    assert found["input_ids"][both] == alone["input_ids"][0] * 2 + [0, 0, 0]
    # The padding is apart from both.
    assert found["starts"][both] == [0, size, 2 * size]
    begin, end = alone["responses"][0]
    assert found["responses"][both] == [begin, end, size + begin, size + end]


def test_a_tokenizer_without_a_template_is_refused_with_what_to_set(tiny, tmp_path):
    bare = AutoTokenizer.from_pretrained(tiny.root / "llama")
    with pytest.raises(ConfigError, match=r"set model\.chat-template to 'plain'"):
        prepared([{"messages": [ASK, SAY]}], bare, tmp_path)
    with pytest.raises(ConfigError, match=r"no token '<\|im_start\|>'"):
        set_template(bare, "chatml")
