"""Prepared folders are built once, whoever races."""

import multiprocessing
import os
from pathlib import Path

import pytest

from fedllm_app.data.cache import build_once, digest


def slow_build(folder: Path) -> None:
    (folder / "made").write_text(str(os.getpid()))
    with (folder.parent / "log").open("a") as log:
        log.write("built\n")


def build_in_process(folder: Path) -> None:
    build_once(folder, slow_build)


def test_processes_that_race_build_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    racers = [context.Process(target=build_in_process, args=(tmp_path / "x",)) for _ in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "built\n"
    assert (tmp_path / "x" / "made").exists()


def test_a_failed_build_leaves_nothing_and_can_be_repeated(tmp_path):
    def fail(folder):
        (folder / "half").touch()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        build_once(tmp_path / "x", fail)
    assert [p.name for p in tmp_path.iterdir()] == ["x.lock"]
    assert (build_once(tmp_path / "x", slow_build) / "made").exists()


def test_what_a_killed_builder_left_is_removed(tmp_path):
    (tmp_path / ".x-left").mkdir()
    build_once(tmp_path / "x", slow_build)
    assert not (tmp_path / ".x-left").exists()


def test_digest_tells_parts_apart():
    assert digest(1, [2], {"a": "b"}) == digest(1, [2], {"a": "b"})
    assert len({digest(1, 23), digest(12, 3), digest("1", 23), digest([1], 23)}) == 4
