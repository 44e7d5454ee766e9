"""A sweep whose runs are tasks of Ray: the same runs, and one that fails is told of."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tomli_w

from fedllm_app.run.metrics import read_lines
from fedllm_app.study.search import read_sweep
from fedllm_app.study.sweep import finished, play

ROOT = Path(__file__).parents[2]


def listeners(pid):
    """Return the addresses on which a process and those that it started listen."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        sockets = [c for p in family for c in p.net_connections("tcp")]
    except psutil.Error:
        return set()
    return {c.laddr.ip for c in sockets if c.status == psutil.CONN_LISTEN}


@pytest.mark.flower
def test_runs_on_ray_are_those_of_this_machine(tiny, tmp_path):
    own = {
        "partition.clients": 3, "round.clients": 2, "lora.rank": 2, "run.rounds": 2,
        "round.evaluate-every": 1,
    }  # fmt: skip
    places = [tiny.keys()["data.train"], str(tmp_path / "nowhere")]
    file = tmp_path / "sweep.toml"
    file.write_text(tomli_w.dumps({"set": tiny.keys() | own, "vary": {"data.train": places}}))
    command = [sys.executable, "-m", "fedllm_app.cli", "sweep", str(file), "--ray", "local"]
    command += ["--home", str(tmp_path / "ray")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    listening = set()
    with (tmp_path / "said").open("wb") as said:
        with subprocess.Popen(command, env=environment, stdout=said, stderr=said) as sweep:
            while sweep.poll() is None:
                listening |= listeners(sweep.pid)
                time.sleep(0.2)
    words = (tmp_path / "said").read_text()
    assert sweep.returncode == 1 and "1 of 2 cells failed" in words, words
    assert "no such file or folder" in words
    assert "127.0.0.1" in listening and listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    (good, _) = read_sweep(file).cells()
    assert finished(good, tmp_path / "ray"), words
    assert "round 2/2" in (tmp_path / "ray" / "logs" / f"{good.name}.log").read_text()
    play([good], tmp_path / "here", say=lambda line: None)
    files = [tmp_path / where / "runs" / good.name / "metrics.jsonl" for where in ("ray", "here")]
    there, here = ([r.get("evaluation") for r in read_lines(file)] for file in files)
    assert there == here
