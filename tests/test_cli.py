"""The fedllm command on a tiny run: what it prints, what it writes, how it refuses."""

import json
import tomllib
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fedllm_app.cli import app, run_folder
from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError
from fedllm_app.core.settings import flatten
from fedllm_app.play import run_local
from fedllm_app.run.metrics import read_lines
from fedllm_app.server.methods import STRATEGIES

TEXT = "the sun moon"
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def runs(tiny):
    """Return the folders of two tiny runs that learn something."""
    keys = tiny.keys() | {
        "run.rounds": 2, "partition.clients": 6, "client.lr": 0.1, "client.batch": 4,
        "server.lr": 0.05, "lora.rank": 2, "round.evaluate-every": 1,
    }  # fmt: skip
    return [
        run_local(RunConfig.parse(keys | {"run.name": f"cli-{name}", "strategy.name": name}))
        for name in ("floss", "dense")
    ]


def call(*words, **how):
    # Wide, so that no table breaks a word that is looked for.
    return CliRunner(env={"COLUMNS": "300"}).invoke(app, list(map(str, words)), **how)


def test_strategies_lists_every_method_with_keys_and_source():
    shown = call("strategies").output
    for name, method in STRATEGIES.items():
        assert f" {name} " in shown
        assert method.source in shown
        assert all(f" {key} " in shown for key in method.keys)


def test_keys_as_toml_are_the_defaults():
    table = tomllib.loads(call("keys", "--toml").output)
    assert flatten(table["tool"]["flwr"]["app"]["config"]) == RunConfig().flat()


def test_keys_as_a_table_name_every_key():
    shown = call("keys").output
    assert all(key in shown for key in RunConfig().flat())


def test_report_writes_the_page_of_a_run(runs, tiny):
    page = runs[0] / "report.html"
    page.unlink()
    done = call("report", "cli-floss", "--home", tiny.home)
    assert done.exit_code == 0, done.output
    assert done.output.strip().endswith(str(page))
    assert "cli-floss" in page.read_text("utf-8")


def test_report_compares_runs_on_one_page(runs, tiny, tmp_path):
    out = tmp_path / "both.html"
    done = call("report", runs[0], "cli-dense", "--out", out, "--home", tiny.home)
    assert done.exit_code == 0, done.output
    text = out.read_text("utf-8")
    assert "cli-floss" in text
    assert "cli-dense" in text


def test_report_over_simulated_seconds_needs_a_clock(runs, tiny):
    done = call("report", "cli-floss", "--x", "simulated", "--home", tiny.home)
    assert done.exit_code == 1
    assert "no clock ran in cli-floss; it runs when network.preset is set" in " ".join(
        done.stderr.split()
    )


def test_export_merges_into_a_model_with_the_same_logits_and_metrics(runs, tiny, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    done = call("export", "cli-floss", "--merge", tmp_path / "merged", "--home", tiny.home)
    assert done.exit_code == 0, done.output
    assert done.output.strip() == str(tmp_path / "merged")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    base = AutoModelForSequenceClassification.from_pretrained(tiny.root / "bert", num_labels=3)
    adapted = PeftModel.from_pretrained(base, runs[0] / "adapter").eval()
    plain = AutoModelForSequenceClassification.from_pretrained(tiny.root / "bert", num_labels=3)
    batch = tokenizer([TEXT, "a sea ice"], return_tensors="pt", padding=True)
    with torch.inference_mode():
        torch.testing.assert_close(merged(**batch).logits, adapted(**batch).logits)
        assert (merged(**batch).logits - plain.eval()(**batch).logits).abs().max() > 1e-3
    assert merged.config.id2label == {0: "sky", 1: "stone", 2: "water"}
    # And it is the model that was evaluated.
    rows = [json.loads(line) for line in (tiny.root / "text" / "test.jsonl").open()]
    batch = tokenizer([r["text"] for r in rows], return_tensors="pt", padding=True)
    with torch.inference_mode():
        predicted = merged(**batch).logits.argmax(-1).tolist()
    hits = [merged.config.id2label[p] == r["label"] for p, r in zip(predicted, rows, strict=True)]
    last = read_lines(runs[0] / "metrics.jsonl")[-1]["evaluation"]
    assert sum(hits) / len(hits) == pytest.approx(last["accuracy"])


REFUSED = {
    "a run that is none": (["report", "nothing"], "run 'nothing' is neither a folder nor one of"),
    "an export of none": (["export", "nothing", "--merge", "x"], "run 'nothing' is neither"),
    "a value out of range": (["run", "strategy.d-up=1.5"], "strategy.d-up is 1.5; expected"),
    "two mistakes": (["run", "run.seed=-1", "server.optimizer=lion"], "server.optimizer is 'lion'"),
    "no pair": (["run", "strategy.name"], "is not KEY=VALUE"),
    "no recipe": (["run", "none.toml"], "recipe 'none.toml' can't be read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_its_message_and_exit_code_1(case, tmp_path):
    words, message = REFUSED[case]
    home = ["--home", tmp_path] if words[0] != "run" else []
    done = call(*words, *home)
    assert done.exit_code == 1
    assert message in " ".join(done.stderr.split())
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_export_leaves_a_folder_that_is_in_use_alone(runs, tiny, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    done = call("export", "cli-floss", "--merge", tmp_path, "--home", tiny.home)
    assert done.exit_code == 1
    assert "expected a new or empty folder" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_unknown_run_lists_the_known(runs, tiny):
    with pytest.raises(ConfigError, match="cli-dense"):
        run_folder("nothing", tiny.home)


def test_a_run_of_another_home_is_found_by_its_path_or_the_way_is_said(runs, tiny, tmp_path):
    done = call("report", "cli-floss", "--home", tmp_path)
    assert done.exit_code == 1
    shown = " ".join(done.stderr.split())
    assert "found by the path of its folder, RUN.HOME/runs/NAME, or with --home RUN.HOME" in shown
    for path in (runs[0], runs[0] / "adapter", runs[0] / "metrics.jsonl"):
        assert run_folder(str(path), tmp_path) == runs[0]


def test_export_takes_a_base_that_has_moved(runs, tiny, tmp_path):
    import shutil

    run = shutil.copytree(runs[0], tmp_path / "run")
    about = json.loads((run / "adapter" / "fedllm.json").read_text())
    about["base"] = str(tmp_path / "gone")
    (run / "adapter" / "fedllm.json").write_text(json.dumps(about))
    done = call("export", run, "--merge", tmp_path / "out", "--home", tiny.home)
    assert done.exit_code == 1
    assert f"'{tmp_path / 'gone'}', is not there anymore" in " ".join(done.stderr.split())
    done = call("export", run, "--merge", tmp_path / "out", "--base", tiny.root / "bert",
                "--home", tiny.home)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_model_that_does_not_fit_is_refused_before_an_engine_starts(tiny, monkeypatch, capfd):
    monkeypatch.setattr(
        "fedllm_app.deploy.launch.run_flower", lambda *_, **__: pytest.fail("an engine was started")
    )
    words = [f"{key}={value}" for key, value in tiny.keys().items()]
    assert call("run", *words, "task.max-tokens=33").exit_code == 1
    shown = capfd.readouterr().err
    assert "ConfigError: task.max-tokens is 33; expected at most 32" in " ".join(shown.split())
    assert "Traceback" not in shown
    assert "fit together" in call("check", *words).output
    done = call("check", *words, "lora.rank=64")
    assert done.exit_code == 1
    assert "lora.rank is 64; expected at most 16" in " ".join(done.stderr.split())


def test_a_key_that_pyproject_lacks_is_named(monkeypatch, tmp_path):
    lines = (ROOT / "pyproject.toml").read_text("utf-8").splitlines(keepends=True)
    kept = "".join(line for line in lines if "d-up =" not in line)
    (tmp_path / "pyproject.toml").write_text(kept)
    (tmp_path / "server_app.py").touch()
    monkeypatch.chdir(tmp_path)
    done = call("run", "strategy.d-up=0.5")
    assert done.exit_code == 1
    shown = " ".join(done.stderr.split())
    assert "lacks strategy.d-up = 0.25 in [tool.flwr.app.config]" in shown, shown
    assert "fedllm keys --toml" in shown


def test_run_hands_recipe_and_overrides_to_flower(monkeypatch, tmp_path):
    seen = {}

    def run_flower(root, **how):
        seen.update(how, root=root)
        return 3

    monkeypatch.setattr("fedllm_app.deploy.launch.run_flower", run_flower)
    recipe = tmp_path / "r.toml"
    recipe.write_text('strategy.name = "dense"\n')
    done = call("run", recipe, "client.lr=0.5")
    assert done.exit_code == 3
    assert (seen["recipe"], seen["overrides"]) == (recipe, ["client.lr=0.5"])
    assert (seen["root"] / "server_app.py").exists()
    assert seen["federation"].name == "pyproject-federation.toml"


def test_a_run_of_the_same_name_with_other_settings_is_refused(runs, tiny):
    keys = tiny.keys() | {"run.name": "cli-floss", "strategy.name": "floss"}
    with pytest.raises(Exception, match=r"run 'cli-floss' has another configuration: client.batch"):
        run_local(RunConfig.parse(keys))
