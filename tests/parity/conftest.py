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
def flower_runs(folder) -> dict[int, Path]:
    """Return the folders of the same rounds through `flwr run`, by number of workers."""
    found = {}
    for workers in (1, 2):
        federation = folder / f"federation-{workers}.toml"
        federation.write_text(
            f"num-supernodes = {workers}\nclient-resources-num-cpus = 1\n"
            f"init-args-num-cpus = {workers}\ninit-args-log-to-driver = false\n"
        )
        name = f"flower-{workers}"
        flat = small.settings(folder, strategy=small.FLOSS, run={"name": name})
        words = small.overrides(flat)
        code = run_flower(ROOT, overrides=words, federation=federation, timeout_s=240)
        assert code == 0, f"flwr run with {workers} workers; {os.getloadavg()=}"
        found[workers] = folder / "home" / "runs" / name
    return found
