"""A run killed with SIGKILL at any moment and started again leaves the bits of one never killed."""

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import small
import victim

from fedllm_app.core.errors import CheckpointError
from fedllm_app.play import run_local

KILLED = -9
ROUNDS = 12
SECTIONS: dict[str, dict[str, Any]] = {
    "round": {"evaluate-every": 3},
    "strategy": small.FLOSS,
    "lora": {"dropout": 0.1},
    "network": {"preset": "thesis", "latency-ms": 3.7, "spread": 0.5},
}
# A device that keeps its optimizer, and what its uploads left out, has a state of its own, which
# must go back with the server's.
KEEPING = {
    "client": {"optimizer": "adamw", "keep-optimizer": True, "lr": 0.01},
    "strategy": small.FLOSS | {"error-feedback": True},
}


@dataclass(frozen=True)
class Whole:
    """A run that nobody killed.

    Attributes
    ----------
    run : its folder. seconds : how long it took.
    moments : the function that was at work at each moment.
    """

    run: Path
    seconds: float
    moments: list[str]


def settings(folder: Path, name: str, every: int = 2, **more: dict[str, Any]) -> dict[str, Any]:
    run = {"name": name, "rounds": ROUNDS, "checkpoint-every": every}
    return small.settings(folder, run=run, **SECTIONS | more)


def folder_of(flat: dict[str, Any]) -> Path:
    return Path(flat["run.home"]) / "runs" / flat["run.name"]


def play(flat: dict[str, Any], moment: int = 0, within: str = "", log: Path | None = None) -> int:
    """Play a run in a process of its own and return its exit code."""
    process = victim.start(flat, moment, within, log)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def play_whole(flat: dict[str, Any]) -> Whole:
    log, watched = Path(flat["run.home"]) / "moments", flat | {"run.name": "watched"}
    assert play(watched, log=log) == 0
    began = time.monotonic()
    assert play(flat) == 0
    seconds = time.monotonic() - began
    assert_same(folder_of(watched), folder_of(flat))
    return Whole(folder_of(flat), seconds, log.read_text().split())


@pytest.fixture(scope="module")
def whole(folder) -> Whole:
    return play_whole(settings(folder, "whole"))


def assert_same(run: Path, whole: Path) -> None:
    """Compare parameters, optimizer, metrics, ledger and result, byte by byte."""
    for name in ("metrics.jsonl", "ledger.jsonl", "adapter/adapter_model.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    assert small.same_bits(small.state(run), small.state(whole))
    assert len(small.lines(run, "metrics.jsonl")) == 1 + ROUNDS


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_by_the_clock(folder, whole, seed):
    rng, flat = random.Random(seed), settings(folder, f"clock-{seed}")
    for _ in range(3):
        process = victim.start(flat)
        time.sleep(rng.uniform(0.1, 0.7) * whole.seconds)
        process.kill()
        process.join()
        assert process.exitcode in (KILLED, 0)
    assert play(flat) == 0
    assert_same(folder_of(flat), whole.run)


@pytest.mark.parametrize(
    ("function", "calls", "kills"),
    [("save_state", 8, 99), ("end_round", 12, 8), ("finish", 1, 3), ("save_adapter", 1, 5)],
)
def test_killed_at_every_step_of_writing(folder, whole, function, calls, kills):
    """Die once at each moment of the function's first call, or at as many, evenly spread."""
    flat = settings(folder, f"in-{function}")
    moments = whole.moments.count(function) // calls
    for i in range(min(kills, moments)):
        assert play(flat, 1 + i * moments // min(kills, moments), function) == KILLED
    assert play(flat) == 0
    assert_same(folder_of(flat), whole.run)


def test_killed_again_and_again_before_the_next_checkpoint(folder, whole):
    rng, flat = random.Random(4), settings(folder, "often")
    for _ in range(4):
        assert play(flat, rng.randrange(1, len(whole.moments) // 5)) == KILLED
    assert play(flat) == 0
    assert_same(folder_of(flat), whole.run)


def test_devices_that_keep_their_optimizer_go_back_too(folder):
    whole, flat = (settings(folder, name, every=5, **KEEPING) for name in ("keeping", "kept"))
    log = folder / "kept.log"
    assert play(whole, log=log) == 0
    saving = log.read_text().split().count("save_kept")
    # In round 10, when most devices have trained more than once since the checkpoint at round 5.
    assert play(flat, int(saving * 0.78), "save_kept") == KILLED
    assert small.lines(folder_of(flat), "metrics.jsonl")[-1]["round"] == 9
    assert play(flat) == 0
    assert_same(folder_of(flat), folder_of(whole))


def test_torn_last_lines_are_cut_off(folder, whole):
    flat = settings(folder, "torn")
    assert play(flat, len(whole.moments) // 2) == KILLED
    for name in ("metrics.jsonl", "ledger.jsonl", "timing.jsonl"):
        with (folder_of(flat) / name).open("a") as file:
            file.write('{"round": 99, "clie')
    (folder_of(flat) / "checkpoints" / "round-00000099.safetensors.tmp").write_bytes(
        b"half a checkpoint"
    )
    run_local(small.RunConfig.parse(flat))
    assert_same(folder_of(flat), whole.run)


def test_another_configuration_is_refused_and_a_longer_run_is_not(folder):
    flat = settings(folder, "changed") | {"run.rounds": 1}
    run = run_local(small.RunConfig.parse(flat))
    before = (run / "config.toml").read_bytes()
    other = flat | {"client.lr": 0.5, "strategy.d-up": 0.5}
    with pytest.raises(CheckpointError) as refused:
        run_local(small.RunConfig.parse(other))
    assert f"client.lr was {small.CLIENT_LR!r} and is 0.5" in str(refused.value)
    assert "strategy.d-up was 0.0625 and is 0.5" in str(refused.value)
    assert (run / "config.toml").read_bytes() == before
    run_local(small.RunConfig.parse(flat | {"run.rounds": 2, "round.evaluate-every": 1}))
    assert small.lines(run, "metrics.jsonl")[-1]["round"] == 2


def test_a_second_process_is_refused_until_the_first_is_dead(folder):
    flat = settings(folder, "locked") | {"run.rounds": 1000}
    process = victim.start(flat)
    try:
        deadline = time.monotonic() + 60
        while not (folder_of(flat) / "metrics.jsonl").exists():
            assert process.is_alive() and time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(CheckpointError, match="in use by another run"):
            run_local(small.RunConfig.parse(flat))
    finally:
        process.kill()
        process.join()
    # A killed process holds nothing.
    rounds = len(small.lines(folder_of(flat), "metrics.jsonl"))
    run = run_local(small.RunConfig.parse(flat | {"run.rounds": rounds + 1}))
    assert small.lines(run, "metrics.jsonl")[-1]["round"] == rounds + 1
