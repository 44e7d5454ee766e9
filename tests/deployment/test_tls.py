"""Two devices with files of their own train over TLS, in processes as on real machines.

One federation plays two runs: an adapter in rounds that close at the first reply, measured on what
devices hold out, and a model from scratch on streams of tokens, asynchronously.
"""

import json
import ssl
import urllib.request
from pathlib import Path

import pytest
import tomli_w
from federation import federation
from peft import PeftModel
from saved import save_model, save_rows
from transformers import AutoModelForSequenceClassification

from fedllm_app.run.checkpoint import latest_checkpoint, load_state

ROOT = Path(__file__).parents[2]
T, JOB = 4, 4  # tokens of a row, one text each; rows of a job


def write_stream_recipe(tmp_path, home):
    """Write a pre-training run that ends when alice has had two jobs, and bob one."""
    recipe = tmp_path / "stream.toml"
    settings = {
        "run": {"home": str(home), "name": "stream", "rounds": 9},
        "task": {"name": "pretraining", "max-tokens": T},
        "data": {"train": "node", "test": str(tmp_path / "test.jsonl")},
        "model": {
            "source": "scratch:tiny", "train": "full", "tokenizer": str(tmp_path / "model"),
        },
        "client": {"reading": "stream", "steps": 2, "batch": JOB // 2},
        "round": {"pacing": "async", "concurrency": 2, "goal": 1, "evaluate-every": 0},
        "strategy": {"name": "diloco"},
    }  # fmt: skip
    recipe.write_text(tomli_w.dumps(settings))
    return recipe


def check_streams(run, report):
    """Every row of both devices was asked for once, and the run ended with their streams."""
    state, _ = load_state(latest_checkpoint(run / "checkpoints"))
    assert state.finished == "the streams ended", report
    assert state.progress == {"alice": 8, "bob": 4}, report
    lines = [json.loads(line) for line in (run / "ledger.jsonl").open()]
    for way in ("down", "up"):
        jobs = [line["client"] for line in lines if line["direction"] == way]
        assert sorted(jobs) == ["alice", "alice", "bob"], report
    # A step for each reply. All predict but the first token of each row of theirs, once.
    rounds = [line for line in map(json.loads, (run / "metrics.jsonl").open()) if line["round"]]
    assert [r["clients"] for r in rounds if "clients" in r] == [1, 1, 1]
    assert state.spent.units == 12 * (T - 1)
    assert (run / "model" / "config.json").exists()


def check_first_replies(run, report):
    """Every round closed at its first reply, and no device was asked while it was at a job."""
    rounds = [line for line in map(json.loads, (run / "metrics.jsonl").open()) if line["round"]]
    assert [line["clients"] for line in rounds if "clients" in line] == [1, 1], report
    assert "still at an earlier job" not in report
    ledger = [json.loads(line) for line in (run / "ledger.jsonl").open()]
    assert {line["client"] for line in ledger} <= {"alice", "bob", ""}, report
    # The slower of the classes that they say has the first tier.
    tiers = {"alice": "0-density-0.25", "bob": "1-density-1"}
    # What devices measure is the model of the last one; its rows are apart.
    jobs = [line for line in ledger if line["direction"] == "down" and "vector" not in line]
    groups = {line["client"]: line["group"] for line in jobs}
    assert groups and groups.items() <= tiers.items(), report


def check_measured(run, report):
    """Devices measured the model on what they hold out: who was there first, and both at last."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    measured = {r["round"]: r["by-client"]["seen"]["clients"] for r in records if "by-client" in r}
    assert (list(measured), measured[2]) == ([0, 2], 2), report
    assert not any("not-measured" in record for record in records), report
    rows = [json.loads(line) for line in (run / "clients.jsonl").open()]
    assert {(row["client"], row["examples"]) for row in rows} == {("alice", 2), ("bob", 1)}, report
    ledger = [json.loads(line) for line in (run / "ledger.jsonl").open()]
    sent = [(r["round"], r["client"]) for r in ledger if r.get("vector") == "evaluation"]
    assert sent == [(row["round"], row["client"]) for row in rows], report


@pytest.mark.flower
def test_two_devices_train_over_tls_and_the_adapter_is_found(tmp_path):
    save_model(tmp_path / "model")
    save_rows(tmp_path / "test.jsonl", ["sky", "soil"] * 4)
    nodes = []
    for client, labels in {"alice": ["sky"] * 6 + ["soil"] * 2, "bob": ["soil"] * 4}.items():
        save_rows(tmp_path / f"{client}.jsonl", labels)
        node = {"client-id": client, "data-path": tmp_path / f"{client}.jsonl"}
        node |= {"model-path": tmp_path / "model", "home": tmp_path / f"{client}-home"}
        node["tokenizer-path"] = tmp_path / "model"
        node["device-class"] = {"alice": "phone", "bob": "pc"}[client]
        nodes.append({key: str(value) for key, value in node.items()})
    recipe = tmp_path / "recipe.toml"
    settings = {
        "run": {"home": str(tmp_path / "server-home"), "name": "tls", "rounds": 2},
        "data": {
            "train": "node", "labels": "sky,soil", "test": str(tmp_path / "test.jsonl"),
            "client-holdout": 0.25,
        },
        "model": {"source": str(tmp_path / "model")},
        "round": {
            "pacing": "deadline", "clients": 1, "over-select": 2.0, "evaluate-every": 2,
            "evaluate-clients": 5,
        },
        "lora": {"rank": 2},
        "strategy": {"name": "floss-tiers", "tier-densities": "0.25,1"},
        "devices": {"fleet": "phone=0.5,pc=0.5"},
    }  # fmt: skip
    recipe.write_text(tomli_w.dumps(settings))

    folder = tmp_path / "federation"
    folder.mkdir()
    with federation(folder, nodes) as running:
        done = running.flwr("run", str(ROOT), "--stream", "--run-config", str(recipe))
        stream = write_stream_recipe(tmp_path, tmp_path / "server-home")
        read = running.flwr("run", str(ROOT), "--stream", "--run-config", str(stream))
        listed = json.loads(running.flwr("list", "--format", "json").stdout)["runs"]
        report = f"{done.stdout}\n{read.stdout}\n{running.logs()}"
        assert [run["status"] for run in listed] == ["finished:completed"] * 2, report
        assert {address for address, _ in running.listeners()} == {"127.0.0.1"}
        # Whoever does not hold the authority's certificate does not talk to this SuperLink.
        address = f"https://127.0.0.1:{running.ports[0]}/health"
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            urllib.request.urlopen(address, timeout=10)
        trust = ssl.create_default_context(cafile=folder / "ca.pem")
        assert urllib.request.urlopen(address, timeout=10, context=trust).status == 200

    run = tmp_path / "server-home" / "runs" / "tls"
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", num_labels=2)
    adapted = PeftModel.from_pretrained(base, run / "adapter")
    assert any("lora_" in name and value.any() for name, value in adapted.named_parameters())
    check_first_replies(run, report)
    check_measured(run, report)
    check_streams(run.parent / "stream", report)
