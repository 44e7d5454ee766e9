"""A model with a table of positions answers what fits into it, and says what does not."""

import json

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from fedllm_app import ending
from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError, DataError
from fedllm_app.data.templates import set_template
from fedllm_app.models.positions import check_positions
from fedllm_app.play import run_local
from fedllm_app.talk.chat import talk
from fedllm_app.talk.loaded import Speaker
from fedllm_app.talk.rows import answer_file

POSITIONS = 32
LONG = "the sun of the sea " * 12


@pytest.fixture(scope="module")
def speaker(tiny):
    """Return a GPT-2 of 32 positions, drawn at random, with the tiny words."""
    tokenizer = AutoTokenizer.from_pretrained(tiny.root / "llama")
    set_template(tokenizer, "plain")
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": POSITIONS}
    model = GPT2LMHeadModel(GPT2Config(**sizes, vocab_size=len(tokenizer), eos_token_id=2))
    return Speaker(model.eval(), tokenizer, {})


def test_answers_have_to_fit_behind_the_longest_row(speaker):
    check_positions(speaker.model, 24, 8)
    with pytest.raises(ConfigError, match=r"task.generate-tokens is 9.*expected at most 8"):
        check_positions(speaker.model, 24, 9)
    with pytest.raises(ConfigError, match=r"task.max-tokens of at most 24.*task.generate to 0"):
        check_positions(speaker.model, 32, 8)


def test_it_is_said_before_a_run_begins(speaker, tiny, tmp_path):
    speaker.model.save_pretrained(tmp_path / "gpt2")
    speaker.tokenizer.save_pretrained(tmp_path / "gpt2")
    keys = tiny.keys("instruction") | {
        "model.source": str(tmp_path / "gpt2"), "task.generate": 2, "task.max-tokens": 24,
        "lora.rank": 2, "partition.clients": 2, "round.clients": 2,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"task.generate-tokens is 128.*expected at most 8"):
        run_local(RunConfig.parse(keys))
    from fedllm_app.config.inputs import input_problems

    (problem,) = input_problems(RunConfig.parse(keys))
    assert "task.generate-tokens is 128" in problem
    assert not input_problems(RunConfig.parse(keys | {"task.generate": 0}))


def test_a_long_line_is_shortened_and_that_is_said(speaker):
    pieces = []
    talk(speaker, [LONG, "the sea"], pieces.append, 8)
    said = "".join(pieces)
    assert said.count("lost the beginning of your question") == 1
    # What leaves no room for a question at all is told as such.
    with pytest.raises(ConfigError, match=r"--max-tokens is 32.*has 32 positions"):
        talk(speaker, ["the sea"], pieces.append, POSITIONS)


def test_a_long_row_is_shortened_and_counted_and_the_others_are_answered(speaker, tmp_path, said):
    file, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows = [{"instruction": text} for text in ("the sun", LONG, "the sea")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answer_file(speaker, file, out, 8)
    assert [json.loads(line)["instruction"] for line in out.read_text().splitlines()] == [
        row["instruction"] for row in rows
    ]
    assert "1 of 3 rows are longer than the model reads" in said.text
    long = {"messages": [{"role": "system", "content": LONG}, {"role": "user", "content": "ice"}]}
    file.write_text(json.dumps(long) + "\n")
    with pytest.raises(DataError, match=r"row 0 of .*leaves no room"):
        answer_file(speaker, file, out, 8)


def test_answers_that_fail_cost_a_run_nothing_but_themselves(tiny, monkeypatch, said):
    def fail(*_):
        raise IndexError("index out of range in self")

    monkeypatch.setattr(ending, "answered", fail)
    keys = tiny.keys("instruction") | {
        "run.name": "no-answers", "run.rounds": 1, "partition.clients": 2, "round.clients": 2,
        "lora.rank": 2, "client.steps": 1, "client.batch": 2, "task.generate": 1,
        "task.generate-tokens": 4,
    }  # fmt: skip
    folder = run_local(RunConfig.parse(keys))
    assert (folder / "report.html").exists() and (folder / "adapter").is_dir()
    assert "no answers.json: index out of range" in said.text
