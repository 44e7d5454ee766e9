"""A launch tells success from failure and leaves nothing behind, however it ends."""

import contextlib
import json
import os
import signal
import sys
import threading
import time
import tomllib
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError, FedllmError
from fedllm_app.core.settings import flatten
from fedllm_app.deploy import launch, superlink
from fedllm_app.deploy.launch import find_app, merged_config, run_flower
from fedllm_app.run.note import Note

# Stands for `flower-superlink`: listens where it is told, with a process in a session of its own.
SUPERLINK = """
import os, socket, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
open(os.environ["FAKE"] + "/pids", "a").write(f"{os.getpid()} {child.pid} ")
if os.environ["FAKE_MODE"] == "broken":
    sys.exit("no room at the inn")
s = socket.socket()
s.bind((sys.argv[sys.argv.index("--host") + 1], int(sys.argv[sys.argv.index("--port") + 1])))
s.listen()
time.sleep(600)
"""
# Stands for `flwr run` and `flwr list`.
FLWR = """
import json, os, shutil, sys, time
fake, mode = os.environ["FAKE"], os.environ["FAKE_MODE"]
if sys.argv[1] == "list":
    old = {"pending-at": "1", "status": "finished:failed", "status-details": "old"}
    new = {"pending-at": "2", "status": "finished:completed", "status-details": "no luck"}
    new["status"] = "finished:failed" if mode == "fails" else new["status"]
    print(json.dumps({"runs": [old, new]}))
    sys.exit()
print("arguments", *sys.argv[1:])
if "--run-config" in sys.argv:
    shutil.copy(sys.argv[sys.argv.index("--run-config") + 1], fake + "/seen.toml")
if os.path.exists(fake + "/note"):
    shutil.copy(fake + "/note", os.environ["FEDLLM_NOTE"])
shutil.copy(os.environ["FLWR_HOME"] + "/config.toml", fake + "/connection.toml")
time.sleep(600 if mode == "sleeps" else 0)
sys.exit(2 if mode == "refuses" else 0)
"""
# A whole Flower app in two files, so that a launch needs neither torch nor data.
SERVER_APP = """
import os, pathlib, time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < 2:
        time.sleep(0.1)
    replies = grid.send_and_receive(
        [Message(RecordDict(), dst_node_id=i, message_type="train") for i in nodes]
    )
    pids = [reply.content["pid"]["pid"] for reply in replies]
    name = context.run_config["run.name"]
    if name == "bad":
        raise ValueError("this run was asked to fail")
    pathlib.Path(context.run_config["run.out"]).write_text(f"{os.getpid()} {pids[0]} {pids[1]} ")
    print("finished", name, flush=True)
"""
CLIENT_APP = """
import os
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message, context):
    return Message(RecordDict({"pid": ConfigRecord({"pid": os.getpid()})}), reply_to=message)
"""
PYPROJECT = """
[project]
name = "tiny"
version = "0.1.0"
[tool.flwr.app]
publisher = "tests"
[tool.flwr.app.components]
serverapp = "server_app:app"
clientapp = "client_app:app"
[tool.flwr.app.config.run]
name = "good"
out = ""
"""
FEDERATION = Path(__file__).parents[2] / "pyproject-federation.toml"


def alive(pids: str) -> list[psutil.Process]:
    """Return which of the processes in "pid pid ..." still run."""
    found = []
    for pid in map(int, pids.split()):
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def wait_for(condition, seconds: float = 90.0):
    """Return the first true value of a function, or fail."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)
    return value


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Put stand-ins in the place of Flower's commands; FAKE_MODE says how they behave."""
    scripts = tmp_path / "bin"
    scripts.mkdir()
    for name, text in (("flower-superlink", SUPERLINK), ("flwr", FLWR)):
        (scripts / name).write_text(f"#!{sys.executable}\n{text}")
        (scripts / name).chmod(0o755)
    monkeypatch.setattr(launch, "SCRIPTS", scripts)
    monkeypatch.setattr(superlink, "SCRIPTS", scripts)
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.setenv("FAKE_MODE", "works")
    return tmp_path


@pytest.fixture
def app(tmp_path):
    """Write the tiny app."""
    folder = tmp_path / "app"
    folder.mkdir()
    for name, text in {
        "server_app.py": SERVER_APP,
        "client_app.py": CLIENT_APP,
        "pyproject.toml": PYPROJECT,
    }.items():
        (folder / name).write_text(text)
    return folder


def test_overrides_go_over_the_recipe_and_keep_their_types(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[strategy]\nname = "floss"\nd-up = 0.25\n[run]\nrounds = 3\n')
    merged = merged_config(
        recipe, ["strategy.name=dense", "run.rounds=5", "lora.head=false", 'data.labels="a,b"']
    )
    assert merged == {
        "strategy": {"name": "dense", "d-up": 0.25},
        "run": {"rounds": 5},
        "lora": {"head": False},
        "data": {"labels": "a,b"},
    }
    assert merged_config(None, ["data.test=/a b/c=d.jsonl", "run.name="]) == {
        "data": {"test": "/a b/c=d.jsonl"},
        "run": {"name": ""},
    }
    assert merged_config(None, []) == {}


@pytest.mark.parametrize("pair", ["data.labels=20", "run.name=2026-11-21", "strategy.tier-ranks=4"])
def test_a_key_of_text_takes_what_toml_would_read_as_something_else(pair):
    key, _, text = pair.partition("=")
    section, _, name = key.partition(".")
    assert merged_config(None, [pair]) == {section: {name: text}}
    RunConfig.parse({"strategy.name": "hetlora"} | flatten(merged_config(None, [pair])))


def test_a_worker_without_a_share_of_a_gpu_sees_none(tmp_path):
    # "0" would leave it all of them; see ray._private.utils.set_visible_accelerator_ids.
    assert (
        superlink.flower_environment(tmp_path).get("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1") == "1"
    )


@pytest.mark.parametrize("pair", ["rounds", "=3", "run..rounds=3", "run.rounds.x=1", "run=1"])
def test_a_bad_override_is_named(tmp_path, pair):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[run]\nrounds = 3\n")
    with pytest.raises(ConfigError, match=f"override '{pair}'"):
        merged_config(recipe, [pair])


@pytest.mark.parametrize("text", [None, "rounds = = 3", "\udc80"])
def test_a_bad_recipe_is_named(tmp_path, text):
    recipe = tmp_path / "recipe.toml"
    if text is not None:
        recipe.write_text(text, "utf-8", "surrogateescape")
    with pytest.raises(ConfigError, match=r"recipe '.*recipe.toml' can't be read"):
        merged_config(recipe, [])


def test_flwr_gets_one_merged_file_and_a_loopback_superlink(fake, capfd):
    recipe = fake / "recipe.toml"
    recipe.write_text('[strategy]\nname = "floss"\n')
    assert run_flower(fake, recipe=recipe, overrides=["run.rounds=2"], federation=FEDERATION) == 0
    seen = tomllib.loads((fake / "seen.toml").read_text())
    assert seen == {"strategy": {"name": "floss"}, "run": {"rounds": 2}}
    connection = tomllib.loads((fake / "connection.toml").read_text())["superlink"]
    assert connection[connection["default"]]["address"].startswith("127.0.0.1:")
    assert f"run {fake} --stream --run-config" in capfd.readouterr().out
    assert not alive((fake / "pids").read_text())


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("fails", "finished:failed: no luck"),
        ("refuses", "`flwr run` exited with 2"),
        ("sleeps", "stopped after 3 s"),
    ],
)
def test_a_run_that_did_not_complete_is_a_failure(fake, monkeypatch, capfd, mode, said):
    monkeypatch.setenv("FAKE_MODE", mode)
    assert run_flower(fake, timeout_s=3 if mode == "sleeps" else 60) == 1
    assert said in capfd.readouterr().err
    assert not alive((fake / "pids").read_text())


def test_a_superlink_that_does_not_start_shows_its_log(fake, monkeypatch):
    monkeypatch.setenv("FAKE_MODE", "broken")
    with pytest.raises(FedllmError, match="no room at the inn"):
        run_flower(fake)


@pytest.fixture
def note(fake):
    """Return a function that lets the run tell how it ended, of six rounds with four saved."""

    def write(ended, why=""):
        (fake / "checkpoints").mkdir()
        (fake / "checkpoints" / "round-00000004.safetensors").touch()
        lines = [f'{{"round":{t}}}\n' for t in range(7)]
        (fake / "metrics.jsonl").write_text("".join(lines))
        told = Note(str(fake), "mine", ended, why)
        (fake / "note").write_text(json.dumps(asdict(told)))

    return write


def test_a_run_that_failed_says_why_and_how_it_goes_on(fake, note, capfd):
    note("EngineError", "a worker died.")
    recipe = fake / "recipe.toml"
    recipe.write_text("[run]\nrounds = 3\n")
    assert run_flower(fake, recipe=recipe, overrides=["run.seed=5", "data.labels=a b"]) == 1
    said = capfd.readouterr().err
    assert "The run failed: a worker died.\nIt was in round 7; all up to round 4 is saved." in said
    assert f"\n  fedllm run {recipe} run.seed=5 'data.labels=a b' run.name=mine\n" in said


def test_what_the_same_command_would_not_mend_is_said_alone(fake, note, capfd):
    note("CheckpointError", "run 'mine' has another configuration")
    assert run_flower(fake, overrides=["run.name=mine"]) == 1
    said = capfd.readouterr().err
    assert said.endswith("The run failed: run 'mine' has another configuration\n")


def test_sigterm_ends_a_run_like_ctrl_c(fake, note, monkeypatch, capfd):
    monkeypatch.setenv("FAKE_MODE", "sleeps")
    note("")

    def terminate() -> None:
        wait_for((fake / "connection.toml").exists)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=terminate)
    thread.start()
    assert run_flower(fake) == 130
    thread.join()
    assert "  fedllm run run.name=mine\n" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
    assert not alive((fake / "pids").read_text())


@pytest.mark.flower
def test_two_launches_at_once_do_not_meet(app, tmp_path, capfd):
    codes = {}

    def start(name: str) -> None:
        pairs = [f"run.name={name}", f"run.out={tmp_path / name}"]
        codes[name] = run_flower(app, overrides=pairs, federation=FEDERATION)

    threads = [threading.Thread(target=start, args=(name,)) for name in ("good", "bad")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = capfd.readouterr()
    assert codes == {"good": 0, "bad": 1}, said.out
    assert "finished good" in said.out
    assert "this run was asked to fail" in said.err
    assert not alive((tmp_path / "good").read_text())


def test_a_strategy_of_one_s_own_is_found_beside_the_app(tmp_path, monkeypatch):
    for name in ("server_app.py", "pyproject.toml"):
        (tmp_path / name).touch()
    (tmp_path / "my_strategies.py").write_text(
        "from fedllm_app.server.methods import STRATEGIES\nMINE = STRATEGIES['dense']\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    words = {"strategy.name": "my_strategies:MINE"}
    with pytest.raises(ConfigError, match="my_strategies"):
        RunConfig.parse(words)
    assert find_app() == tmp_path
    assert RunConfig.parse(words).strategy.name == "my_strategies:MINE"
