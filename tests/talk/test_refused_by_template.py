"""What a chat template refuses is said in a sentence: with its row, or in the terminal."""

import json

import pytest
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from fedllm_app.core.errors import ConfigError, DataError, FedllmError
from fedllm_app.data.conversations import NoConversationError
from fedllm_app.data.templates import PLAIN
from fedllm_app.talk.chat import talk
from fedllm_app.talk.loaded import Speaker
from fedllm_app.talk.rows import answer_file

REFUSES = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
)
USER = {"role": "user", "content": "the sun"}
SYSTEM = {"role": "system", "content": "the ice"}
ASSISTANT = {"role": "assistant", "content": "the moon"}


@pytest.fixture
def speaker(tiny):
    """Return a tiny Llama that is asked by a template which knows no system, as Gemma's."""
    tokenizer = AutoTokenizer.from_pretrained(tiny.root / "llama")
    tokenizer.chat_template = REFUSES + PLAIN
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(**sizes, intermediate_size=32, vocab_size=len(tokenizer), eos_token_id=2)
    return Speaker(LlamaForCausalLM(config).eval(), tokenizer, {})


def answered(speaker, tmp_path, *rows):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return answer_file(speaker, file, tmp_path / "out.jsonl", 4)


def test_a_row_that_the_template_refuses_is_named(speaker, tmp_path):
    assert issubclass(NoConversationError, FedllmError)
    with pytest.raises(DataError, match=r"row 1 of .*: .*refuses it: System role not supported"):
        answered(speaker, tmp_path, [USER], [SYSTEM, USER])


def test_a_row_in_which_nobody_asks_is_named(speaker, tmp_path):
    with pytest.raises(DataError, match=r"row 0 of .*: nobody asks anything"):
        answered(speaker, tmp_path, [ASSISTANT])


def test_a_system_that_the_template_refuses_is_told_before_anything_is_typed(speaker):
    with pytest.raises(ConfigError, match=r"--system is 'be short'.*System role not supported"):
        talk(speaker, iter(lambda: pytest.fail("a line was read"), None), print, 4, "be short")


def test_a_line_that_the_template_refuses_ends_no_talk(speaker):
    pieces = []
    speaker.tokenizer.chat_template = (
        "{% if 'sea' in messages[-1]['content'] %}{{ raise_exception('no sea') }}{% endif %}"
        + speaker.tokenizer.chat_template
    )
    talk(speaker, ["the sea", "the sun"], pieces.append, 4)
    assert pieces[0] == "(the chat template refuses it: no sea)\n" and len(pieces) > 1
