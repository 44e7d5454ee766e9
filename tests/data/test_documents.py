"""A document ends with the end token, once, and begins as its tokenizer begins one."""

from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from fedllm_app.data.documents import cut, documents, end_token


def ids(tokenizer, *texts):
    tokens = tokenizer(list(texts))["input_ids"]
    return documents(texts, tokens, end_token(tokenizer))


def put_around(tokenizer, template, *names):
    special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in names]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        template, special_tokens=special
    )


def test_the_end_token_is_added_once(tokenizer):
    end = tokenizer.eos_token_id
    plain = tokenizer("a b")["input_ids"]
    assert ids(tokenizer, "a b", "a", "", " \n") == [[*plain, end], [plain[0], end], [], []]
    put_around(tokenizer, f"$A {tokenizer.eos_token}", tokenizer.eos_token)
    assert ids(tokenizer, "a b", "") == [[*plain, end], []]


def test_a_document_begins_as_the_tokenizer_says(tokenizer):
    plain, end = tokenizer("a b")["input_ids"], tokenizer.eos_token_id
    start = tokenizer.convert_tokens_to_ids("e")
    put_around(tokenizer, "e $A", "e")
    assert ids(tokenizer, "a b") == [[start, *plain, end]]


def test_one_that_closes_every_text_needs_no_end_token(tokenizer, said):
    plain = tokenizer("a b")["input_ids"]
    tokenizer.eos_token, tokenizer.sep_token = None, "e"
    put_around(tokenizer, "d $A e", "d", "e")
    first, last = tokenizer.convert_tokens_to_ids(["d", "e"])
    assert ids(tokenizer, "a b") == [[first, *plain, last]]
    assert not said.records


def test_a_tokenizer_without_an_end_is_told(tokenizer, said):
    plain = tokenizer("a b")["input_ids"]
    tokenizer.eos_token = None
    assert ids(tokenizer, "a b") == [plain]
    assert "no end token" in said.text and "does not learn to stop" in said.text


@given(st.lists(st.integers(0, 9), max_size=50), st.integers(2, 8))
def test_every_token_that_begins_no_block_is_predicted_once(ids, length):
    blocks = cut(ids, length)
    predicted = [token for block in blocks for token in block[1:]]
    last = [] if len(ids) % length != 1 else ids[-1:] * (len(ids) > 1)
    assert predicted == [t for i, t in enumerate(ids) if i % length] + last
    assert not ids[1:] or predicted[-1] == ids[-1]
    assert all(2 <= len(block) <= length for block in blocks)
