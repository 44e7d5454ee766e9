"""A file that is written is whole, or the one before it."""

import pytest

from fedllm_app.core.files import replacing


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "state"
    with replacing(path) as file:
        file.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    assert [p.name for p in path.parent.iterdir()] == ["state"]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "state"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"ne")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
    with replacing(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
