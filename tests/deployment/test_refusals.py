"""A SuperNode opens, imports and downloads only what its own node-config names.

One federation for all of it. Its nodes say of themselves what Flower's own examples say, the words
of a simulated node: neither a client-id nor a data-path.
"""

import http.server
import itertools
import json
import shutil
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import tomli_w
from federation import federation
from saved import save_model, save_rows

ROOT = Path(__file__).parents[2]
HUB = "org/tiny"
# Says in whose process it was imported.
MODULE = """
import os, pathlib
from fedllm_app.client.rules.base import LocalRule
pathlib.Path(os.environ["FLWR_HOME"], "imported").touch()
class Mine(LocalRule): pass
"""
SAID = {
    "hub": [
        f"model.source is '{HUB}'; this device opens and downloads only what its node-config names",
        "node-config lacks ['data-path']",
    ],
    "module": ["client.rule is 'trap:Mine'; this device does not import 'trap'"],
    "data": ["server.jsonl'; this device opens no data but what its own node-config names"],
}


@pytest.fixture
def hub():
    """Serve nothing on loopback and note what is asked for."""
    asked = []

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def do_HEAD(self):
            self.do_GET()

        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def settings_of(tmp_path, name):
    """Return a run that the server can begin."""
    found = {
        "run": {"home": str(tmp_path / "server-home"), "name": name, "rounds": 1},
        "data": {"train": "node", "labels": "sky,soil"},
        "model": {"source": str(tmp_path / "model")},
        "round": {"clients": 2},
        "lora": {"rank": 2},
    }
    if name == "hub":
        found["model"] = {"source": HUB}
    if name == "module":
        found["client"] = {"rule": "trap:Mine"}
    if name == "data":
        found["data"] = {"train": str(tmp_path / "server.jsonl"), "label-column": "label"}
        found["partition"] = {"name": "iid", "clients": 2}
    return found


@pytest.mark.flower
def test_what_a_node_config_does_not_name_is_refused(tmp_path, hub):
    address, asked = hub
    save_model(tmp_path / "model")
    # The server has the hub's model in its cache; nobody else has, and there is no hub.
    snapshot = tmp_path / "hub-cache" / "hub" / f"models--{HUB.replace('/', '--')}"
    (snapshot / "refs").mkdir(parents=True)
    (snapshot / "refs" / "main").write_text("0")
    shutil.copytree(tmp_path / "model", snapshot / "snapshots" / "0")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "trap.py").write_text(MODULE)
    nodes = [
        {"partition-id": "0", "num-partitions": "2"},
        {"partition-id": "1", "num-partitions": "2"},
    ]
    save_rows(tmp_path / "server.jsonl", ["sky", "soil"] * 4)
    env = {"PYTHONPATH": str(tmp_path / "code"), "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}
    asking = env | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "empty-cache")}
    environments = {f"supernode-{i}": asking for i in range(len(nodes))}
    environments["superlink"] = env | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hub-cache"),
    }
    folder = tmp_path / "federation"
    folder.mkdir()
    with federation(folder, nodes, environments) as running:
        for name in SAID:
            recipe = tmp_path / f"{name}.toml"
            recipe.write_text(tomli_w.dumps(settings_of(tmp_path, name)))
            begun = running.flwr("run", str(ROOT), "--run-config", str(recipe))
            assert begun.returncode == 0, begun.stdout
        deadline, want = time.monotonic() + 240, set(itertools.chain(*SAID.values()))
        logs = [folder / f"supernode-{i}" / "process.log" for i in range(len(nodes))]
        while missing := want - {w for w in want for log in logs if w in log.read_text()}:
            assert time.monotonic() < deadline, f"{missing}\n{running.logs()}"
            time.sleep(0.5)
        listed = json.loads(running.flwr("list", "--format", "json").stdout)["runs"]
        assert not [run for run in listed if run["status"] == "finished:completed"]
    # The server imports what it is told; and the hub hears who asks it.
    assert {path.parent.name for path in folder.glob("*/imported")} == {"superlink"}
    assert asked == []
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{address}/{HUB}", timeout=10)
    assert asked == [f"/{HUB}"]
