"""A run that dies and goes on writes the bytes of one that never died (the in-process half).

The kill comes in the middle of a round, after its first reply: the files then hold lines beyond
the checkpoint, and everything in memory is gone.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import P, Scripted, toy_device, toy_loop

from fedllm_app.core.errors import CheckpointError
from fedllm_app.core.plan import ClientPlan, RoundPlan
from fedllm_app.core.state import Spent
from fedllm_app.core.support import Positions
from fedllm_app.devices.network import Network, NetworkSettings
from fedllm_app.run.checkpoint import latest_checkpoint, load_state
from fedllm_app.run.metrics import read_lines
from fedllm_app.server.methods.base import Method
from fedllm_app.wire.codec import WireSettings
from fedllm_app.wire.select import top_positions

RNG = np.random.default_rng(5)
SLOPES = {c: RNG.normal(size=P).astype(np.float32) for c in "abcdef"}
WIRE = WireSettings(up_values="int8", down_values="fp16", block=16)
ROUNDS = 7
NETWORK = Network(NetworkSettings(preset="thesis", latency_ms=3.7, spread=0.5), 0)


def shrinking(inputs, state):
    """Halve the mask until three are left: a method whose state must survive."""
    mask = top_positions(inputs.params, 0.8, state.get("mask"))
    mask = state["mask"] if len(mask) < 3 else mask
    support = Positions(mask)
    plan = ClientPlan(down=support, train=support, up=support)
    round_ = RoundPlan(
        {"all": plan}, dict.fromkeys(inputs.cohort, "all"), step=support, outside="zero"
    )
    return round_, {"mask": mask}


METHODS = {
    "floss": "floss",
    "shrinking": Method(shrinking, "", ""),
    "sparse-diloco": "sparse-diloco",  # its residuals are on devices
}
SERVERS = {
    "adam": {"optimizer": "adam", "lr": 0.1},
    "adamw": {"optimizer": "adamw", "lr": 0.1},
    "sgd": {"optimizer": "sgd", "lr": 0.5},
    "nesterov": {"optimizer": "sgd", "lr": 0.5, "momentum": 0.9, "nesterov": True},
    "adagrad": {"optimizer": "adagrad", "lr": 0.1},
    "delayed": {"optimizer": "delayed-nesterov", "lr": 0.5, "momentum_period": 3},
}


def loop_over(folder, *, method, server, die_in=0, rounds=ROUNDS, every=2, **client):
    device = toy_device(SLOPES, folder / "clients", bend=0.3, wire=WIRE, **client)
    transport = Scripted(device, dict.fromkeys(SLOPES, 2), die_in=die_in)
    return toy_loop(
        folder, transport, method=METHODS[method], server=SERVERS[server], wire=WIRE,
        rounds=rounds, checkpoint_every=every, clients=3, evaluate_every=3,
        base_client_bytes=1000, network=NETWORK,
    )  # fmt: skip


def state_of(folder):
    """Return all that the promise of equal bits covers."""
    state, tensors = load_state(latest_checkpoint(folder / "checkpoints"))
    files = [(folder / f"{name}.jsonl").read_bytes() for name in ("metrics", "ledger")]
    known = state.to_json() | {"spent": state.spent.simulated_s}
    method = {f"method.{k}": torch.from_numpy(v) for k, v in state.method.items()}
    return *files, {k: t.numpy().tobytes() for k, t in (tensors | method).items()}, known


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("method", METHODS)
def test_killed_and_resumed_equals_never_killed(tmp_path, method, server):
    how = {"method": method, "server": server}
    loop_over(tmp_path / "whole", **how).play()
    for die_in in (1, 4, 5):
        with pytest.raises(KeyboardInterrupt):
            loop_over(tmp_path / "killed", **how, die_in=die_in).play()
    loop_over(tmp_path / "killed", **how).play()
    assert state_of(tmp_path / "killed") == state_of(tmp_path / "whole")
    clock = [r["simulated-s"] for r in read_lines(tmp_path / "killed" / "metrics.jsonl")[1:]]
    assert clock == sorted(set(clock)) and len(clock) == ROUNDS


def test_a_longer_run_equals_one_that_was_long_from_the_start(tmp_path):
    how = {"method": "floss", "server": "adam"}
    loop_over(tmp_path / "whole", **how, rounds=6).play()
    loop_over(tmp_path / "grown", **how, rounds=3).play()
    loop_over(tmp_path / "grown", **how, rounds=6).play()
    assert state_of(tmp_path / "grown") == state_of(tmp_path / "whole")


def test_a_finished_run_trains_nobody_and_changes_no_byte(tmp_path):
    how = {"method": "floss", "server": "adam"}
    loop_over(tmp_path, **how).play()
    before = state_of(tmp_path)
    again = loop_over(tmp_path, **how)
    again.play()
    assert again.transport.submitted == []
    assert state_of(tmp_path) == before


@pytest.mark.parametrize("every", [1, 3])
def test_optimizers_kept_on_devices_survive_too(tmp_path, every):
    how = {
        "method": "floss", "server": "sgd", "every": every,
        "keep_optimizer": True, "momentum": 0.9, "lr": 0.1,
    }  # fmt: skip
    loop_over(tmp_path / "whole", **how).play()
    for die_in in (3, 6):
        with pytest.raises(KeyboardInterrupt):
            loop_over(tmp_path / "killed", **how, die_in=die_in).play()
    loop_over(tmp_path / "killed", **how).play()
    assert state_of(tmp_path / "killed") == state_of(tmp_path / "whole")


def flip(path, at):
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def halve(path, at):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(("damage", "at"), [(flip, -1), (flip, 3), (flip, 40), (halve, 0)])
def test_a_damaged_checkpoint_is_said_and_the_one_before_goes_on(tmp_path, said, damage, at):
    # A device that keeps its optimizer has to find the state of the earlier checkpoint, too.
    how = {
        "method": "floss", "server": "adam", "keep_optimizer": True, "momentum": 0.9, "lr": 0.1,
    }  # fmt: skip
    loop_over(tmp_path / "whole", **how).play()
    killed = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        loop_over(killed, **how, die_in=6).play()
    newest = latest_checkpoint(killed / "checkpoints")
    assert newest.name == "round-00000004.safetensors"
    damage(newest, at)
    again = loop_over(killed, **how)
    assert again.state.round == 2
    assert read_lines(killed / "metrics.jsonl")[-1]["round"] == 2
    assert f"{newest} is damaged" in said.text and "the checkpoint after round 2" in said.text
    again.play()
    assert "starts fresh" not in said.text
    assert state_of(killed) == state_of(tmp_path / "whole")


def test_with_no_whole_checkpoint_the_run_is_refused_and_nothing_is_touched(tmp_path):
    how = {"method": "floss", "server": "adam"}
    loop_over(tmp_path, **how, rounds=4).play()
    files = sorted((tmp_path / "checkpoints").iterdir())
    for path in files:
        flip(path, -1)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    both = r"00000004.* is damaged .*00000002.* is damaged .*No other checkpoint is there"
    with pytest.raises(CheckpointError, match=both):
        loop_over(tmp_path, **how, rounds=6)
    assert sorted((tmp_path / "checkpoints").iterdir()) == files
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_the_clock_of_seconds_goes_on(tmp_path):
    how = {"method": "floss", "server": "adam"}
    first = loop_over(tmp_path, **how, rounds=2)
    first.state = replace(first.state, spent=Spent(seconds=100.0))
    first.play()
    again = loop_over(tmp_path, **how)
    assert again.limits.seconds(again.state) > 100
