"""A run's folder: one line a round, cut back to the checkpoint, with an estimate in the log."""

import json
import re

import numpy as np
import pytest
from toys import PARAMS, P, Scripted, toy_device, toy_loop

from fedllm_app.devices.network import Network, NetworkSettings
from fedllm_app.run.clock import Clock
from fedllm_app.run.metrics import read_lines
from fedllm_app.wire.codec import dense_bytes

SLOPES = {c: np.ones(P, np.float32) for c in "ab"}


def loop_over(folder, rounds=4, every=2, **how):
    device = toy_device(SLOPES, folder / "clients")
    transport = Scripted(device, dict.fromkeys(SLOPES, 1))
    return toy_loop(folder, transport, rounds=rounds, checkpoint_every=every, clients=2,
                    evaluate_every=2, base_client_bytes=1000, **how)  # fmt: skip


def test_the_files_of_a_run(tmp_path):
    loop_over(tmp_path).play()
    assert {p.name for p in tmp_path.iterdir()} >= {
        "metrics.jsonl", "ledger.jsonl", "timing.jsonl", "checkpoints", "tensorboard",
    }  # fmt: skip
    metrics, timing = (read_lines(tmp_path / f"{n}.jsonl") for n in ("metrics", "timing"))
    assert [r["round"] for r in metrics] == [r["round"] for r in timing] == [0, 1, 2, 3, 4]
    assert list(metrics[1]) == [
        "round", "clients", "dropped", "train-loss", "update-norm", "up-bytes", "down-bytes",
        "examples", "params-norm", "cosine", "clip-bound", "clipped",
    ]  # fmt: skip
    assert "evaluation" in metrics[2]
    parts = timing[1]["parts"]
    assert set(parts) == {"plan", "encode", "wait", "fold", "step", "evaluate", "checkpoint"}
    assert sum(parts.values()) == pytest.approx(timing[1]["seconds"], rel=0.2, abs=2e-3)
    assert "python" in timing[0]["versions"]


def test_no_time_of_day_is_in_what_must_be_equal(tmp_path):
    loop_over(tmp_path).play()
    for name in ("metrics", "ledger"):
        keys = {k for r in read_lines(tmp_path / f"{name}.jsonl") for k in r}
        assert not [k for k in keys if "second" in k or k.endswith("-s") or "time" in k]


def test_bytes_add_up_and_the_base_is_a_row_of_its_own(tmp_path):
    loop_over(tmp_path).play()
    ledger = read_lines(tmp_path / "ledger.jsonl")
    by = {d: [r for r in ledger if r["direction"] == d] for d in ("up", "down", "base")}
    assert len(by["up"]) == len(by["down"]) == 8
    assert [(r["round"], r["bytes"], r["clients"]) for r in by["base"]] == [(1, 2000, 2)]
    assert (
        {r["bytes"] for r in by["up"]} == {r["dense-bytes"] for r in by["up"]} == {dense_bytes(P)}
    )
    last = read_lines(tmp_path / "metrics.jsonl")[-1]
    assert last["up-bytes"] == sum(r["bytes"] for r in by["up"])


def test_progress_shows_the_metric_bytes_and_an_estimate(tmp_path, said):
    loop_over(tmp_path).play()
    lines = [m for m in said.messages if m.startswith("round ")]
    assert re.match(r"round 1/4, 2 clients, train loss 210\.000, up 0\.00 MB, .* left$", lines[0])
    assert "accuracy 0.0" in lines[1]
    assert re.search(r", \d\.\d s$", lines[3])
    assert said.messages[-1] == "ended after round 4: all 4 rounds"


def test_progress_shows_simulated_seconds(tmp_path, said):
    # A payload of 144 bytes at 0.001152 Mbps takes a second.
    network = Network(NetworkSettings(down_mbps=0.001152, up_mbps=0.001152), 0)
    loop_over(tmp_path, network=network).play()
    lines = [m for m in said.messages if m.startswith("round ")]
    assert ", simulated 2.00 s, " in lines[0]
    assert ", simulated 8.00 s, " in lines[3]


def test_files_are_cut_back_to_the_checkpoint(tmp_path):
    loop_over(tmp_path, rounds=3).play()
    # A checkpoint of round 2 is there beside that of round 3, which is lost.
    (tmp_path / "checkpoints" / "round-00000003.safetensors").unlink()
    again = loop_over(tmp_path)
    assert again.state.round == 2
    assert again.resumed
    for name in ("metrics", "ledger", "timing"):
        assert max(r["round"] for r in read_lines(tmp_path / f"{name}.jsonl")) == 2
    assert again.optimizer.params.tolist() == (PARAMS - 2).tolist()
    assert list(again.state.evaluation) == ["accuracy", "loss"]
    assert again.state.saved == {"a": 2, "b": 2}
    assert again.state.progress == {"a": 2 * P, "b": 2 * P}  # the toy's batch has P rows


def test_without_a_checkpoint_the_files_begin_anew(tmp_path):
    for name in ("metrics", "ledger", "timing"):
        (tmp_path / f"{name}.jsonl").write_text('{"round": 1, "old": true}\n')
    fresh = loop_over(tmp_path)
    assert not fresh.resumed
    assert fresh.state.round == 0
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_checkpoints_come_every_few_rounds_and_at_the_end(tmp_path):
    seen = []
    loop = loop_over(tmp_path, rounds=5)
    save = loop.recorder.checkpoint
    loop.recorder.checkpoint = lambda state, tensors: (
        seen.append(state.round) or save(state, tensors)
    )
    loop.play()
    assert seen == [0, 2, 4, 5, 5]


def test_the_end_is_written_once(tmp_path):
    # Round 3 is not evaluated by cadence; a run that stops there is evaluated at its end.
    budget = 3 * 2 * dense_bytes(P)
    for _ in range(2):
        loop_over(tmp_path, rounds=9, max_up_bytes=budget).play()
        rounds = [r["round"] for r in read_lines(tmp_path / "metrics.jsonl")]
        assert rounds == [0, 1, 2, 3, 3]
    text = (tmp_path / "metrics.jsonl").read_text().splitlines()[-1]
    assert set(json.loads(text)) == {"round", "evaluation"}


def test_a_clock_puts_time_down_to_parts():
    clock = Clock()
    clock.lap("a")
    clock.lap("b")
    clock.lap("a")
    assert set(clock.parts) == {"a", "b"}
    assert all(seconds >= 0 for seconds in clock.parts.values())
