"""What is learned of a conversation, token by token, through the chat templates of many models."""

import pytest
from templates import GEMMA, LLAMA3, SYSTEM, THINKS, TURNS, WRITTEN
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from fedllm_app.data.chat import Encoded, encoded, prompt_ids, stop_ids
from fedllm_app.data.conversations import NoConversationError
from fedllm_app.data.shorten import ASKED, NOTHING, RESPONSE, shortened
from fedllm_app.data.shorten import TURNS as LOST_TURNS
from fedllm_app.data.templates import PLAIN, TEMPLATES, set_template

MARKS = (
    "<s>", "</s>", "<pad>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]",
    "<|system|>", "<|user|>", "<|assistant|>", "<|end|>",
)  # fmt: skip


def byte_level(trim, **strips):
    """Return a byte-level BPE, whose marks may take the white space beside them."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.ByteLevel(trim_offsets=trim)
    text = [turn["content"] for turn in TURNS] + ["user assistant system model a rock of ice"]
    inner.train_from_iterator(
        text * 3,
        trainers.BpeTrainer(
            vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=[
                AddedToken(mark, special=True, normalized=False, **strips) for mark in MARKS
            ],
            show_progress=False,
        ),
    )  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


@pytest.fixture(scope="module", params=[True, False], ids=["trimmed", "whole"])
def tokenizer(request):
    """Return a byte-level BPE; some count a space to the token behind it, some do not."""
    return byte_level(request.param)


def learned(one):
    return {t for begin, end in one.responses for t in range(begin, end)}


def marked(written):
    """Return a text without its marks « and », and of each character whether it lies between."""
    wanted, inside = [], False
    for character in written:
        if character in "«»":
            inside = character == "«"
        else:
            wanted.append(inside)
    return written.replace("«", "").replace("»", ""), wanted


@pytest.mark.parametrize(("template", "system", "written"), [row[1:] for row in WRITTEN],
                         ids=[row[0] for row in WRITTEN])  # fmt: skip
def test_each_response_and_its_end_mark_is_learned_and_nothing_else(
    tokenizer, template, system, written
):
    tokenizer.chat_template = template
    messages = [SYSTEM, *TURNS] if system else TURNS
    (one,) = encoded(tokenizer, [messages])
    text, wanted = marked(written)
    assert tokenizer.apply_chat_template(messages, tokenize=False) == text
    # Token by token: the characters that its bytes add to the text tell whether it is learned.
    at, found = 0, learned(one)
    for t in range(len(one.ids)):
        size = len(tokenizer.decode(one.ids[: t + 1]).rstrip("\ufffd"))
        if size > at:  # else a character's first bytes
            assert {t in found} == set(wanted[at:size]), (t, text[at:size])
            at = size
    assert at == len(text)
    assert len(one.responses) == 3


@pytest.mark.parametrize("trim", [True, False], ids=["trimmed", "whole"])
@pytest.mark.parametrize("strips", [{"rstrip": True}, {"lstrip": True}, {"rstrip": True,
                         "lstrip": True}], ids=["right", "left", "both"])  # fmt: skip
@pytest.mark.parametrize(("template", "system", "written"), [row[1:] for row in WRITTEN],
                         ids=[row[0] for row in WRITTEN])  # fmt: skip
def test_marks_that_take_white_space_shift_nothing(template, system, written, strips, trim):
    """As Phi-3's: `<|assistant|>` holds the line break behind it, and spaces of the response."""
    tokenizer = byte_level(trim, **strips)
    tokenizer.chat_template = template
    messages = [SYSTEM, *TURNS] if system else TURNS
    (one,) = encoded(tokenizer, [messages])
    text, wanted = marked(written)
    at, begin, found = 0, 0, learned(one)
    for t, token in enumerate(tokenizer.convert_ids_to_tokens(one.ids)):
        if token in MARKS:
            mark = text.index(token, at)
            assert not text[at:mark].strip()  # white space that the mark took
            assert {t in found} == set(wanted[mark : mark + len(token)]), (t, token)
            at, begin = mark + len(token), t + 1
            continue
        said = tokenizer.decode(one.ids[begin : t + 1]).rstrip("\ufffd")
        before = tokenizer.decode(one.ids[begin:t]).rstrip("\ufffd")
        if new := said[len(before) :]:
            start = text.index(new, at)
            assert not text[at:start].strip()
            assert {t in found} == set(wanted[start : start + len(new)]), (t, new)
            at = start + len(new)
    assert not text[at:].strip() and len(one.responses) == 3


@pytest.mark.parametrize(("template", "system"), [row[1:3] for row in WRITTEN if "system" not in
                         row[0] and row[0] != "thinks"])  # fmt: skip
def test_what_comes_before_a_response_is_what_a_model_is_given_to_answer(
    tokenizer, template, system
):
    tokenizer.chat_template = template
    messages = [SYSTEM, *TURNS] if system else TURNS
    (one,) = encoded(tokenizer, [messages])
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    for i, (begin, _) in zip(answers, one.responses, strict=True):
        assert one.ids[:begin] == prompt_ids(tokenizer, messages[:i])


@pytest.mark.parametrize("name", ["plain", "chatml"])
def test_a_template_of_ours_begins_with_the_mark_that_the_tokenizer_puts_first(name, tmp_path):
    def begun(tokenizer):
        return tokenizer.convert_ids_to_tokens(
            [encoded(tokenizer, [TURNS])[0].ids[0], prompt_ids(tokenizer, TURNS[:1])[0]]
        )

    tokenizer = byte_level(trim=True)  # has a <s>, and puts it nowhere, as SmolLM2's
    set_template(tokenizer, name)
    assert "<s>" not in begun(tokenizer)
    assert tokenizer.chat_template == TEMPLATES[name]
    tokenizer = byte_level(trim=True)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    set_template(tokenizer, name)
    assert begun(tokenizer) == ["<s>", "<s>"]
    (one,) = encoded(tokenizer, [TURNS])
    assert one.ids.count(tokenizer.bos_token_id) == 1 and 0 not in learned(one)
    # A text of one's own stays as it is, and what is saved is what was trained with.
    tokenizer.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    assert begun(saved) == ["<s>", "<s>"]
    set_template(tokenizer, PLAIN)
    assert tokenizer.chat_template == PLAIN


def test_an_answer_ends_with_the_mark_of_the_template(tokenizer):
    for template, mark in ((LLAMA3, "<|eot_id|>"), (GEMMA, "<end_of_turn>"), (PLAIN, "</s>")):
        tokenizer.chat_template = template
        found = tokenizer.convert_ids_to_tokens(stop_ids(tokenizer))
        assert set(found) == {"</s>", mark}


def test_a_template_that_refuses_or_changes_a_response_is_told(tokenizer):
    tokenizer.chat_template = GEMMA
    with pytest.raises(NoConversationError, match="refuses it: System role not supported"):
        encoded(tokenizer, [[SYSTEM, *TURNS]])
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    with pytest.raises(NoConversationError, match="changes message 1"):
        encoded(tokenizer, [TURNS])


def test_a_long_conversation_loses_its_oldest_turns_then_its_question_then_its_end(tokenizer):
    tokenizer.chat_template = PLAIN

    def encode(messages):
        return encoded(tokenizer, [messages])[0]

    def short(messages, T):
        kept, done = shortened(messages, encode(messages), T, encode)
        return kept and tokenizer.decode(kept.ids), done, kept

    whole = [SYSTEM, *TURNS]
    two = encode([SYSTEM, *TURNS[2:]])
    assert short(whole, 500)[1] == set()
    text, done, kept = short(whole, len(two.ids))
    assert (done, kept) == ({LOST_TURNS}, two)
    assert text.startswith("Be short.") and "moon" not in text
    # One exchange is left, and its question loses its beginning.
    asks = {"role": "user", "content": "Is " + "a rock of ice " * 20 + "a moon, señor?"}
    last = encode([SYSTEM, asks, TURNS[5]])
    text, done, kept = short([*whole[:3], asks, TURNS[5]], len(last.ids) - 6)
    assert done == {LOST_TURNS, ASKED}
    assert "a moon, señor?" in text and "Is" not in text and "### Instruction:" in text
    ((begin, end),) = kept.responses
    assert tokenizer.decode(kept.ids[begin:end]) == "Sí, she said.</s>"
    # A response longer than all keeps its beginning, and no mark says that it has ended.
    long = [{"role": "user", "content": "ice"}, {"role": "assistant", "content": "A rock. " * 50}]
    text, done, kept = short(long, 40)
    assert done == {RESPONSE} and len(kept.ids) == 40
    assert "A rock. A rock." in text and "</s>" not in text
    frame = prompt_ids(tokenizer, long[:1])
    assert short(long, len(frame))[:2] == (None, {NOTHING})


def test_a_question_loses_its_beginning_also_where_a_template_cuts_answers(tokenizer):
    """Where marks do not tell, the question is found as the response is: neither is lost."""
    tokenizer.chat_template = THINKS
    asks = {"role": "user", "content": "Is " + "a rock of ice " * 20 + "a moon?"}
    said = {"role": "assistant", "content": "<think>hm</think>Sí, she said."}
    whole = encoded(tokenizer, [[asks, {**said, "content": "Sí, she said."}]])[0]

    def encode(messages):
        return encoded(tokenizer, [messages])[0]

    for answer in (said, {**said, "content": "Sí, she said."}):
        one = encode([asks, answer]) if answer is not said else whole
        kept, done = shortened([asks, answer], one, len(whole.ids) - 6, encode)
        assert done == {ASKED}
        ((begin, end),) = kept.responses
        assert "Sí, she said." in tokenizer.decode(kept.ids[begin:end])


def test_spans_move_with_what_is_cut():
    one = Encoded(list(range(20)), ((12, 18),), (4, 10))
    kept, done = shortened([], one, 16, None)
    # Two tokens behind the response, and two of the question, are four.
    assert (kept.ids, kept.responses, done) == (
        [0, 1, 2, 3, *range(6, 18)], ((10, 16),), {ASKED}
    )  # fmt: skip
