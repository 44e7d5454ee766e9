"""What a run tells its launcher arrives whole, on a full disk too."""

import errno
import os

import pytest

from fedllm_app.core.errors import ConfigError, EngineError
from fedllm_app.run.metrics import JsonLines
from fedllm_app.run.note import DONE, SIZE, VARIABLE, Note, make_note, read_note, tell, told


@pytest.fixture
def note(tmp_path, monkeypatch):
    path = tmp_path / "note"
    make_note(path)
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def test_a_run_tells_where_it_lies_and_how_it_ended(note, tmp_path):
    assert read_note(note) == Note()
    with told(tmp_path, "mine"):
        assert read_note(note) == Note(str(tmp_path), "mine")
    assert read_note(note) == Note(str(tmp_path), "mine", DONE)
    for error, why in ((ConfigError("no such key"), "no such key"), (KeyError(3), "KeyError: 3")):
        with pytest.raises(type(error)), told(tmp_path, "mine"):
            raise error
        assert read_note(note) == Note(str(tmp_path), "mine", type(error).__name__, why)
    # The file keeps its size, so that it never needs room that is not there.
    tell(Note("f", "n", "ConfigError", "ä" * 3 * SIZE))
    assert os.stat(note).st_size == SIZE
    assert not read_note(note).why.strip("ä")


def test_nobody_who_listens_is_no_reason_to_fail(tmp_path, monkeypatch):
    for value in ("", str(tmp_path / "gone")):
        monkeypatch.setenv(VARIABLE, value)
        with told(tmp_path, "mine"):
            pass


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_is_named_whoever_runs_into_it(note, tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(EngineError, match=f"the disk of {tmp_path} is full"), told(tmp_path, "a"):
        JsonLines(tmp_path / "metrics.jsonl").append({"round": 1})
    assert read_note(note).ended == "EngineError"
    with pytest.raises(EngineError, match="is full: make room"), told(tmp_path, "a"):
        raise RuntimeError(f"Io error: {os.strerror(errno.ENOSPC)} (os error 28)")
    with pytest.raises(OSError, match="denied"), told(tmp_path, "a"):
        raise OSError(errno.EACCES, "denied")
