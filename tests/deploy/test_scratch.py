"""A launch has a folder of its own; what a killed one left, the next one removes."""

import subprocess
import sys
import tempfile

import pytest

from fedllm_app.deploy.scratch import scratch_folder

HOLD = """
import sys, time
from fedllm_app.deploy.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "superlink.log").write_text("x")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_the_folders_of_the_dead_are_removed_and_those_of_the_living_stay(temporary):
    users = temporary / "fedllm-theirown"
    users.mkdir()
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as held:
        try:
            name = held.stdout.readline().strip()
            with scratch_folder() as mine:
                there = {str(path) for path in temporary.iterdir()}
                assert there == {name, str(mine), str(users)}
        finally:
            held.kill()
    assert {str(path) for path in temporary.iterdir()} == {name, str(users)}
    with scratch_folder() as mine:
        assert {str(path) for path in temporary.iterdir()} == {str(mine), str(users)}
    assert list(temporary.iterdir()) == [users]
