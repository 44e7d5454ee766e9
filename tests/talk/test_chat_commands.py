"""A tuned model after its run: talked to, asked by file, by the lines of its README, and merged."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from fedllm_app import cli
from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError
from fedllm_app.data.chat import prompt_ids
from fedllm_app.play import run_local
from fedllm_app.report.answers import answers_tables
from fedllm_app.talk import harness
from fedllm_app.talk.answers import answers
from fedllm_app.talk.chat import talk
from fedllm_app.talk.loaded import speaker

ASKED = ("the sun", "the sea", "a sand")


@pytest.fixture(scope="module")
def run(tiny):
    """Return a short run with adapters, which answers at its end."""
    keys = tiny.keys("instruction") | {
        "run.name": "talking", "run.rounds": 4, "partition.clients": 2, "round.clients": 2,
        "client.lr": 0.05, "client.optimizer": "adamw", "client.batch": 2, "lora.rank": 4,
        "lora.targets": "all-linear", "strategy.name": "dense", "task.max-tokens": 32,
        "server.optimizer": "sgd", "round.evaluate-every": 4, "task.generate": 5,
        "task.generate-tokens": 4, "task.generate-at": "evaluations",
    }  # fmt: skip
    return run_local(RunConfig.parse(keys))


def command(*words, typed=None):
    return CliRunner().invoke(cli.app, [*map(str, words)], input=typed)


def test_a_talk_answers_line_after_line_and_remembers(run, tmp_path):
    found = speaker(run, "", tmp_path)
    pieces, asked = [], []
    own = found.model.generate

    def generate(**given):
        asked.append(found.tokenizer.decode(given["input_ids"][0]))
        return own(**given)

    found.model.generate = generate
    talk(found, ["the sun\n", "\n", "the sea\n", "/new\n", "a sand\n", "/quit\n", "no\n"],
         pieces.append, 4, system="ice")  # fmt: skip
    assert len(asked) == 3
    assert asked[1].startswith(asked[0].split("sun")[0]) and "sun" in asked[1]
    assert "sun" not in asked[2] and asked[2].startswith("ice")
    assert "A new conversation.\n" in "".join(pieces)


def test_chat_and_generate_say_the_same_in_the_terminal(run, tmp_path, tiny):
    said = command("chat", run, "--max-tokens", 4, "--home", tiny.home, typed="the sun\n/quit\n")
    assert said.exit_code == 0, said.output
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"instruction": a}) + "\n" for a in ASKED))
    out = tmp_path / "out.jsonl"
    done = command("generate", run, rows, "--out", out, "--max-tokens", 4, "--home", tiny.home)
    assert done.exit_code == 0, done.output
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["instruction"] for row in found] == list(ASKED)
    assert found[0]["answer"].split() == said.output.split()
    # Rows with a response are scored.
    rows.write_text(json.dumps({"prompt": "the sun", "completion": "moon"}) + "\n")
    done = command("generate", run, rows, "--out", out, "--max-tokens", 4, "--home", tiny.home)
    right = float(found[0]["answer"] == "moon")
    assert f"exact-match {right:.4f}" in done.output and "rouge-l " in done.output


def test_the_readme_of_the_adapter_talks_by_its_own_lines(run, capsys):
    text = (run / "adapter" / "README.md").read_text("utf-8")
    assert f"fedllm chat {run}" in text
    lines = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    assert "messages = " in lines
    exec(lines, space := {})
    assert capsys.readouterr().out.strip() == space["answer"].strip()
    assert isinstance(space["answer"], str)


def test_a_merged_model_is_ready_for_gguf_and_says_the_same(run, tmp_path, tiny):
    out = tmp_path / "merged"
    done = command("export", run, "--merge", out, "--gguf", "--home", tiny.home)
    assert done.exit_code == 0, done.output
    assert f"python convert_hf_to_gguf.py {out}" in done.output
    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert model.dtype == torch.bfloat16
    template = json.loads((out / "tokenizer_config.json").read_text())["chat_template"]
    assert template == AutoTokenizer.from_pretrained(out).chat_template
    assert model.generation_config.eos_token_id == [2]


def test_a_run_of_labels_has_nobody_to_talk_to(run, tmp_path):
    copy = tmp_path / "labels"
    shutil.copytree(run, copy)
    about = json.loads((copy / "adapter" / "fedllm.json").read_text())
    (copy / "adapter" / "fedllm.json").write_text(json.dumps(about | {"labels": ["a", "b"]}))
    with pytest.raises(ConfigError, match="gives labels and no answers"):
        speaker(copy, "", tmp_path)


def test_a_run_answers_before_and_after_training_and_shows_it(run):
    found = json.loads((run / "answers.json").read_text("utf-8"))
    texts = found["texts"]
    assert (found["round"], len(texts)) == (4, 5)
    assert {text["reference"] for text in texts} <= {"moon", "ice", "rock"}
    # What the user said, without what the template writes around it.
    assert all(re.fullmatch(r"(the|a) (sun|sea|sand)( of)?", text["asked"]) for text in texts)
    for when in ("before", "after"):  # the score is that of the texts beside it
        same = sum(text[when] == text["reference"] for text in texts) / 5
        assert found[when]["exact-match"] == pytest.approx(same)
    # Every evaluation scored the same answers.
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines()
    evaluated = [metrics for line in lines if (metrics := json.loads(line).get("evaluation"))]
    for metrics, when in zip(evaluated, ("before", "after"), strict=True):
        assert {name: metrics[name] for name in found[when]} == found[when]
    page = (run / "report.html").read_text("utf-8")
    assert "What is answered" in page and texts[0]["after"] in page
    assert "Rouge l by round" in page
    assert [table.title for table in answers_tables(run)] == ["Answers", "What is answered"]


def test_answers_that_fail_leave_an_evaluation_its_other_metrics(tiny, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("fedllm_app.measuring.answers", fail)
    keys = tiny.keys("instruction") | {
        "run.name": "speechless", "run.rounds": 1, "partition.clients": 2, "round.clients": 2,
        "client.steps": 1, "lora.rank": 2, "task.max-tokens": 32, "task.generate": 2,
        "task.generate-tokens": 4, "task.generate-at": "evaluations",
    }  # fmt: skip
    folder = run_local(RunConfig.parse(keys))
    assert "held-out conversations are not answered: out of memory" in caplog.text
    last = json.loads((folder / "metrics.jsonl").read_text("utf-8").splitlines()[-1])
    assert set(last["evaluation"]) == {"loss", "perplexity", "token-accuracy"}


def test_an_answer_is_the_same_alone_and_in_a_batch_with_longer_prompts(run, tmp_path):
    found = speaker(run, "", tmp_path)
    prompts = [
        prompt_ids(found.tokenizer, [{"role": "user", "content": text}])
        for text in ("the sun", "a sea of the sea", "sand")
    ]
    alone = [answers(found.model, found.tokenizer, [prompt], 6)[0] for prompt in prompts]
    assert answers(found.model, found.tokenizer, prompts, 6) == alone


def test_a_harness_that_is_missing_is_told_with_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    done = command("eval", run, "--tasks", "arc_easy")
    assert done.exit_code == 1
    assert "pip install 'fedllm[eval]'" in done.stderr


def test_the_harness_is_handed_a_merged_model(run, tmp_path, tiny, monkeypatch):
    seen = []

    def call(words, check):
        given = words[words.index("--model_args") + 1]
        folder = given.removeprefix("pretrained=").partition(",")[0]
        seen.append((words, AutoModelForCausalLM.from_pretrained(folder)))
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(harness, "find_spec", lambda name: object())
    monkeypatch.setattr(harness.subprocess, "run", call)
    done = command("eval", run, "--tasks", "a,b", "--include-path", tmp_path, "--home", tiny.home)
    assert done.exit_code == 0, done.output
    words, model = seen[0]
    assert words[:3] == [sys.executable, "-m", "lm_eval"]
    assert words[words.index("--include_path") + 1] == str(tmp_path)
    assert type(model).__name__ == "LlamaForCausalLM"


TASK = """\
task: words
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{asked}}}}"
doc_to_choice: "{{{{words}}}}"
doc_to_target: "{{{{right}}}}"
metric_list:
  - metric: acc
"""


@pytest.mark.real
@pytest.mark.timeout(900)
def test_the_harness_scores_a_task_of_local_files(run, tmp_path, tiny):
    pytest.importorskip("lm_eval", reason="pip install 'fedllm[eval]'")
    words = ["moon", "ice", "rock"]
    rows = [{"asked": a, "words": words, "right": i} for i, a in enumerate(ASKED)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "words.yaml").write_text(TASK.format(rows=tmp_path / "rows.jsonl"))
    done = command("eval", run, "--tasks", "words", "--include-path", tmp_path,
                   "--out", tmp_path / "out", "--home", tiny.home)  # fmt: skip
    assert done.exit_code == 0, done.output
    [file] = (tmp_path / "out").glob("results_*.json")
    found = json.loads(file.read_text())["results"]["words"]
    known = speaker(run, "", tmp_path)
    right = 0
    for row in rows:
        ids = known.tokenizer(row["asked"], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            last = known.model(input_ids=ids).logits[0, -1]
        best = last[known.tokenizer.convert_tokens_to_ids(words)].argmax().item()
        right += best == row["right"]
    assert found["acc,none"] == pytest.approx(right / len(rows))
