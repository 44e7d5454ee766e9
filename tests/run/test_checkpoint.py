"""A checkpoint is whole or absent, holds every bit, and a folder has one run at a time."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import bits

from fedllm_app.core.errors import CheckpointError
from fedllm_app.core.state import RunState, Spent
from fedllm_app.core.tensorfile import save_tensors
from fedllm_app.run.checkpoint import (
    _is_still,
    latest_checkpoint,
    load_state,
    locked,
    save_state,
)

TENSORS = {
    "params": torch.tensor([1.0, -0.0, 1e-45]),
    "optimizer.step": torch.tensor(3.0),
}
MASK = np.array([1, 2**40])


def state(round_=1):
    return RunState(
        round=round_, clock=7, steps=3, method={"mask": MASK}, accepted={"ä/b": 1},
        saved={"ä/b": 1}, progress={"ä/b": 12}, pending=(("ä/b", 1, 144),),
        totals={"up_bytes": 2**40}, evaluation={"macro-f1": 0.1, "accuracy": 1 / 3},
        spent=Spent(seconds=0.1), finished="target",
    )  # fmt: skip


def test_there_and_back_bit_for_bit(tmp_path):
    path = save_state(tmp_path, state(), TENSORS)
    back, tensors = load_state(path)
    assert replace(back, method={}) == replace(state(), method={})
    assert bits(back.method["mask"]) == bits(MASK)
    # The first metric is the headline.
    assert list(back.evaluation) == ["macro-f1", "accuracy"]
    assert set(tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert bits(tensors[name]) == bits(tensor)
        assert tensors[name].dtype == tensor.dtype


def test_an_empty_array_of_a_method_survives(tmp_path):
    empty = replace(state(), method={"mask": np.zeros(0, np.int64)})
    back, _ = load_state(save_state(tmp_path, empty, TENSORS))
    assert back.method["mask"].size == 0


def test_the_last_two_are_kept(tmp_path):
    for round_ in (8, 9, 10, 100):
        save_state(tmp_path, state(round_), TENSORS)
    kept = sorted(p.name for p in tmp_path.iterdir())
    assert kept == ["round-00000010.safetensors", "round-00000100.safetensors"]
    assert latest_checkpoint(tmp_path) == tmp_path / "round-00000100.safetensors"


def test_no_folder_has_no_checkpoint(tmp_path):
    assert latest_checkpoint(tmp_path / "none") is None


def test_a_kill_before_the_rename_leaves_the_old_one(tmp_path, monkeypatch):
    save_state(tmp_path, state(1), TENSORS)

    def killed(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        save_state(tmp_path, state(2), TENSORS)
    monkeypatch.undo()
    assert load_state(latest_checkpoint(tmp_path))[0].round == 1
    # The half-written file is in nobody's way.
    save_state(tmp_path, state(2), TENSORS)
    assert load_state(latest_checkpoint(tmp_path))[0].round == 2


@pytest.mark.parametrize(
    "damage", ["cut", "longer", "one bit", "empty", "text", "foreign", "field"]
)
def test_what_is_damaged_or_foreign_is_named(tmp_path, damage):
    path = save_state(tmp_path, state(), TENSORS)
    whole = path.read_bytes()
    if damage == "foreign":
        save_file(TENSORS, path)
    else:
        path.write_bytes(
            {
                "cut": whole[:-1],
                "longer": whole + b"0",
                "one bit": whole[:-2] + bytes([whole[-2] ^ 4]) + whole[-1:],
                "empty": b"",
                "text": b"no checkpoint at all",
                "field": whole.replace(b"finished", b"finashed"),
            }[damage]
        )
    with pytest.raises(
        CheckpointError, match=r"round-00000001.safetensors is damaged or not a file"
    ):
        load_state(path)


def test_one_of_another_version_is_refused_by_name(tmp_path):
    path = save_state(tmp_path, state(), TENSORS)
    save_tensors(path, TENSORS, {"version": 1, "state": state().to_json()})
    with pytest.raises(CheckpointError, match=r"another version of fedllm .* a new run\.name"):
        load_state(path)


def test_anybody_can_read_it_as_safetensors(tmp_path):
    path = save_state(tmp_path, state(), TENSORS)
    read = load_file(path)
    assert bits(read["params"]) == bits(TENSORS["params"])
    assert read["method.mask"].tolist() == MASK.tolist()


def test_a_folder_has_one_run_at_a_time(tmp_path):
    with locked(tmp_path / "run"):
        with pytest.raises(CheckpointError, match="is in use by another run"):
            with locked(tmp_path / "run"):
                pass
    with locked(tmp_path / "run"):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    hold = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'w')\n"
        "fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", hold, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(CheckpointError, match="in use"):
            with locked(tmp_path):
                pass
        other.kill()
        other.wait()
    with locked(tmp_path):
        pass


def test_a_lock_on_a_folder_that_was_removed_is_taken_anew(tmp_path, monkeypatch):
    seen = []

    def removed_once(handle, path):
        if not seen:
            shutil.rmtree(path.parent)
        seen.append(_is_still(handle, path))
        return seen[-1]

    monkeypatch.setattr("fedllm_app.run.checkpoint._is_still", removed_once)
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / "lock").exists()
    assert seen == [False, True]
