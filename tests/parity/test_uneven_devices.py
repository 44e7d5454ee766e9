"""Asynchronous rounds on a real model: one process, killed, and two workers, to the same bytes."""

import os
from pathlib import Path
from typing import Any

import pytest
import small
import victim

from fedllm_app.deploy.launch import run_flower
from fedllm_app.opening import opening_of
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.play import LocalTransport, build_loop, opened_run, run_local

ROOT = Path(__file__).parents[2]
# Devices keep their optimizer and what their uploads left out, so that each of a client's jobs
# hangs on the one before. One client fails whenever it is asked.
SECTIONS: dict[str, dict[str, Any]] = {
    "round": {"pacing": "async", "concurrency": 4, "goal": 2, "evaluate-every": 4},
    "strategy": small.FLOSS | {"error-feedback": True},
    "client": {"optimizer": "adamw", "keep-optimizer": True, "lr": 0.01},
    "network": {"preset": "thesis", "latency-ms": 3.7, "spread": 0.5},
    "compute": {"step-s": 0.5, "ratio": 4.0},
}
ROUNDS = 9


def settings(folder: Path, name: str) -> dict[str, Any]:
    run = {"name": name, "rounds": ROUNDS, "checkpoint-every": 2}
    return small.settings(folder, run=run, **SECTIONS)


def assert_same(run: Path, other: Path) -> None:
    """Compare parameters, optimizer, open jobs, metrics, ledger and result, byte by byte."""
    for name in ("metrics.jsonl", "ledger.jsonl", "adapter/adapter_model.safetensors"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    assert small.same_bits(small.state(run), small.state(other))


@pytest.fixture(scope="module")
def whole(folder) -> Path:
    process = victim.start(settings(folder, "uneven"), log=folder / "uneven.log")
    process.join()
    assert process.exitcode == 0
    return folder / "home" / "runs" / "uneven"


def test_stale_replies_are_folded_in_and_failures_free_their_place(whole):
    _, *rounds = small.lines(whole, "metrics.jsonl")
    assert [r["clients"] for r in rounds] == [2] * ROUNDS
    assert max(r["staleness-most"] for r in rounds) >= 2
    assert sum(r["dropped"].get("error", 0) for r in rounds) > 0
    clock = [r["simulated-s"] for r in rounds]
    assert clock == sorted(clock) and clock[0] > 0.25
    assert any(name.startswith("open.") for name in small.state(whole))


def test_a_killed_run_plays_its_open_jobs_again(folder, whole):
    flat, reached = settings(folder, "uneven-killed"), list[int]()
    moments = len((folder / "uneven.log").read_text().split())
    for share in (0.4, 0.3, 0.45):
        process = victim.start(flat, int(share * moments))
        process.join()
        assert process.exitcode == -9
        reached.append(len(small.lines(whole.parent / "uneven-killed", "metrics.jsonl")))
    assert len({*reached}) > 1 and reached[-1] <= ROUNDS  # a line more than rounds
    assert_same(run_local(small.RunConfig.parse(flat)), whole)


@pytest.mark.flower
@pytest.mark.timeout(600)
def test_workers_change_no_byte(folder, whole):
    federation = folder / "federation-uneven.toml"
    federation.write_text(
        "num-supernodes = 2\nclient-resources-num-cpus = 1\ninit-args-num-cpus = 2\n"
        "init-args-log-to-driver = false\n"
    )
    words = small.overrides(settings(folder, "uneven-flower"))
    code = run_flower(ROOT, overrides=words, federation=federation, timeout_s=240)
    assert code == 0, f"{os.getloadavg()=}"
    assert_same(whole.parent / "uneven-flower", whole)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        (SECTIONS, ["4 at work at any time, a step every 2 replies", "by the simulated clock"]),
        (
            {"round": {"pacing": "async", "clients": 4}},
            ["by the wall-clock: such a run is not reproducible, and a resumed one asks anew"],
        ),
        (
            {"round": {"pacing": "deadline", "clients": 4, "deadline-s": 9.0}},
            ["6 a round, of which the first 4 count, for at most 9 s", "by the wall-clock"],
        ),
    ],
    ids=["async-clock", "async", "deadline"],
)
def test_a_run_says_at_its_start_who_is_late(folder, sections, said):
    name = {"run": {"name": f"opening-{len(said)}"}}
    with opened_run(small.config(folder, **sections | name)) as (config, run):
        parts = Parts(config, Place.of(config))
        loop = build_loop(parts, run, LocalTransport(parts, run))
        text = opening_of(parts, run, loop)
    assert all(words in text for words in said)
