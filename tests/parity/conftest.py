"""Runs that several proofs look at are played once."""

import os
from pathlib import Path

import pytest
import small

from fedllm_app.deploy.launch import run_flower
from fedllm_app.play import run_local

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Return the folder with model and data; runs and caches go below its home/."""
    path = tmp_path_factory.mktemp("small")
    small.write(path)
    return path


@pytest.fixture(scope="session")
def local_run(folder) -> Path:
    """Return the folder of three rounds of FLoSS in this process."""
    return run_local(small.config(folder, strategy=small.FLOSS, run={"name": "local"}))


@pytest.fixture(scope="session")
def flower_run(folder) -> Path:
    """Return the folder of the same rounds through `flwr run`, with two workers."""
    federation = folder / "federation-2.toml"
    federation.write_text(
        "num-supernodes = 2\nclient-resources-num-cpus = 1\n"
        "init-args-num-cpus = 2\ninit-args-log-to-driver = false\n"
    )
    flat = small.settings(folder, strategy=small.FLOSS, run={"name": "flower"})
    words = small.overrides(flat)
    code = run_flower(ROOT, overrides=words, federation=federation, timeout_s=240)
    assert code == 0, f"{os.getloadavg()=}"
    return folder / "home" / "runs" / "flower"
