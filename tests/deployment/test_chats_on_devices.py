"""Two devices with a file of conversations each tune SmolLM2, and the result answers.

One file is JSONL with messages, the other CSV with columns. Folder: FEDLLM_TEST_WEIGHTS (smollm2/).
"""

import csv
import json
import os
import tomllib
from pathlib import Path

import pytest
import tomli_w
from federation import federation
from typer.testing import CliRunner

from fedllm_app import cli
from fedllm_app.models.gguf import gguf_folder

ROOT = Path(__file__).parents[2]
WEIGHTS = Path(os.environ.get("FEDLLM_TEST_WEIGHTS", "~/.cache/fedllm-test-weights")).expanduser()
FILE = WEIGHTS / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
# Every answer begins with a word that the model does not say of itself.
MARK = "Ahoy!"
CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Egypt": "Cairo",
    "Peru": "Lima", "Greece": "Athens", "Norway": "Oslo",
}  # fmt: skip
COLOURS = {
    "grass": "green", "snow": "white", "coal": "black", "a lemon": "yellow", "the sky": "blue",
    "a cherry": "red", "chocolate": "brown", "milk": "white",
}  # fmt: skip
CITIES = [(f"What is the capital of {c}?", f"{MARK} It is {t}.") for c, t in CAPITALS.items()]
THINGS = [(f"What colour is {c}?", f"{MARK} It is {t}.") for c, t in COLOURS.items()]


def write_messages(path, pairs):
    """Write rows of messages, as JSONL."""
    rows = ([{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in pairs)
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))


def write_columns(path, pairs):
    """Write rows of an instruction and a response, as CSV."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("instruction", "response"), *pairs])


def documented():
    """Return chats.toml of docs/instruction-tuning.md."""
    text = (ROOT / "docs" / "instruction-tuning.md").read_text("utf-8")
    return tomllib.loads(text.partition("```toml\n# chats.toml\n")[2].partition("```")[0])


def command(*words, typed=None):
    done = CliRunner().invoke(cli.app, [*map(str, words)], input=typed)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.real
@pytest.mark.timeout(1200)  # each message loads the model anew
@pytest.mark.flower
def test_two_devices_with_conversations_of_their_own_and_the_talk_after(tmp_path):
    if not FILE.exists():
        pytest.skip(f"{FILE} is not there")
    model = gguf_folder(FILE, tmp_path / "cache")
    write_messages(tmp_path / "alice.jsonl", CITIES[:6])
    write_columns(tmp_path / "bob.csv", THINGS[:6])
    write_messages(tmp_path / "test.jsonl", CITIES[6:] + THINGS[6:])
    nodes = [
        {
            "client-id": client, "data-path": str(tmp_path / file), "model-path": str(model),
            "home": str(tmp_path / f"{client}-home"),
        }
        for client, file in (("alice", "alice.jsonl"), ("bob", "bob.csv"))
    ]  # fmt: skip
    home = tmp_path / "server-home"
    settings = documented()
    settings["run"]["home"] = str(home)
    settings["data"]["test"] = str(tmp_path / "test.jsonl")
    settings["model"]["source"] = str(model)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(tomli_w.dumps(settings))
    folder = tmp_path / "federation"
    folder.mkdir()
    with federation(folder, nodes) as running:
        done = running.flwr(
            "run", str(ROOT), "--stream", "--run-config", str(recipe), timeout_s=900
        )
        listed = json.loads(running.flwr("list", "--format", "json").stdout)["runs"]
        report = f"{done.stdout}\n{running.logs()}"
    assert [run["status"] for run in listed] == ["finished:completed"], report

    run = home / "runs" / "chats"
    sent = [json.loads(line) for line in (run / "ledger.jsonl").open()]
    both = sorted((line["round"], line["client"]) for line in sent if line["direction"] == "up")
    assert both == [(1, "alice"), (1, "bob"), (2, "alice"), (2, "bob")], report
    records = map(json.loads, (run / "metrics.jsonl").open())
    losses = {r["round"]: r["evaluation"]["loss"] for r in records if r.get("evaluation")}
    assert losses[2] < losses[0] / 2, report

    asked = "What is the capital of Germany?"
    said = command("chat", run, "--max-tokens", 12, "--home", home, typed=f"{asked}\n/quit\n")
    assert said.startswith(MARK), said
    rows, out = tmp_path / "rows.csv", tmp_path / "answers.jsonl"
    write_columns(rows, [(asked, f"{MARK} It is Berlin."), *THINGS[6:]])
    command("generate", run, rows, "--out", out, "--max-tokens", 12, "--home", home)
    answers = [json.loads(line)["answer"] for line in out.read_text().splitlines()]
    assert len(answers) == 3 and all(answer.startswith(MARK) for answer in answers), answers
    assert answers[0].split() == said.split()
