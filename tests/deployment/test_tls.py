"""Two devices with files of their own train over TLS, in processes as on real machines."""

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

ROOT = Path(__file__).parents[2]


@pytest.mark.flower
def test_two_devices_train_over_tls_and_the_adapter_is_found(tmp_path):
    save_model(tmp_path / "model")
    save_rows(tmp_path / "test.jsonl", ["sky", "soil"] * 4)
    nodes = []
    for client, labels in {"alice": ["sky"] * 6 + ["soil"] * 2, "bob": ["soil"] * 4}.items():
        save_rows(tmp_path / f"{client}.jsonl", labels)
        node = {"client-id": client, "data-path": tmp_path / f"{client}.jsonl"}
        node |= {"model-path": tmp_path / "model", "home": tmp_path / f"{client}-home"}
        nodes.append({key: str(value) for key, value in node.items()})
    recipe = tmp_path / "recipe.toml"
    settings = {
        "run": {"home": str(tmp_path / "server-home"), "name": "tls", "rounds": 2},
        "data": {"train": "node", "labels": "sky,soil", "test": str(tmp_path / "test.jsonl")},
        "model": {"source": str(tmp_path / "model")},
        "round": {"clients": 2, "evaluate-every": 2},
        "lora": {"rank": 2},
    }
    recipe.write_text(tomli_w.dumps(settings))

    folder = tmp_path / "federation"
    folder.mkdir()
    with federation(folder, nodes) as running:
        done = running.flwr("run", str(ROOT), "--stream", "--run-config", str(recipe))
        listed = json.loads(running.flwr("list", "--format", "json").stdout)["runs"]
        report = f"{done.stdout}\n{running.logs()}"
        assert [run["status"] for run in listed] == ["finished:completed"], report
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
    clients = {json.loads(line)["client"] for line in (run / "ledger.jsonl").open()}
    assert clients >= {"alice", "bob"}, report
