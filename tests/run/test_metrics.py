"""metrics.jsonl survives a kill at any byte, and reads back the same bits."""

import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedllm_app.core.errors import CheckpointError
from fedllm_app.run.metrics import Board, JsonLines, iterate_lines, read_lines, versions


def write(path: Path, *records: dict[str, object]) -> None:
    file = JsonLines(path)
    for record in records:
        file.append(record)
    file.close()


def test_a_record_is_one_compact_line_with_nested_keys_sorted(tmp_path: Path) -> None:
    write(tmp_path / "m.jsonl", {"round": 1, "dropped": {"late": 2, "error": 1}, "clients": 3})
    text = (tmp_path / "m.jsonl").read_text()
    assert text == '{"round":1,"dropped":{"error":1,"late":2},"clients":3}\n'


def test_numpy_scalars_are_numbers_and_what_is_not_finite_is_null(tmp_path: Path) -> None:
    write(tmp_path / "m.jsonl", {"round": np.int64(1), "x": np.float32(0.5), "y": float("nan")})
    assert read_lines(tmp_path / "m.jsonl") == [{"round": 1, "x": 0.5, "y": None}]


@given(st.floats(allow_nan=False, allow_infinity=False), st.text())
def test_floats_and_texts_read_back_the_same(value: float, text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.jsonl"
        write(path, {"round": 1, "x": value, "client": text})
        [record] = read_lines(path)
    assert record["client"] == text
    assert np.float64(record["x"]).tobytes() == np.float64(value).tobytes()


def test_a_file_torn_at_any_byte_reads_as_its_whole_lines_and_goes_on(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.jsonl", tmp_path / "torn.jsonl"
    write(whole, {"round": 1, "a": "é"}, {"round": 2}, {"round": 3})
    data = whole.read_bytes()
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        complete = data[:cut].count(b"\n")
        assert [r["round"] for r in read_lines(path)] == [1, 2, 3][:complete]
        write(path, {"round": 9})
        assert [r["round"] for r in read_lines(path)] == [*[1, 2, 3][:complete], 9]


def test_a_torn_line_longer_than_a_block_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"round":1}\n{"x":"' + b"y" * 200_000)
    JsonLines(path).close()
    assert path.read_bytes() == b'{"round":1}\n'


def test_cut_back_leaves_the_bytes_of_a_run_that_stopped_there(tmp_path: Path) -> None:
    short, long = tmp_path / "short.jsonl", tmp_path / "long.jsonl"
    records: list[dict[str, object]] = [{"round": n, "x": n / 3} for n in range(6)]
    write(short, *records[:4])
    file = JsonLines(long)
    for record in records:
        file.append(record)
    file.cut_back(3)
    assert long.read_bytes() == short.read_bytes()
    file.append(records[4])
    file.sync()
    assert [r["round"] for r in read_lines(long)] == [0, 1, 2, 3, 4]
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []


def test_a_broken_line_before_the_last_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"round":1}\n{"rou\n{"round":3}\n')
    with pytest.raises(CheckpointError, match=r"m\.jsonl line 2 is not a JSON record"):
        read_lines(tmp_path / "m.jsonl")


def test_a_missing_file_has_no_records(tmp_path: Path) -> None:
    assert list(iterate_lines(tmp_path / "none.jsonl")) == []


def test_a_resumed_board_shows_each_step_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = Board(tmp_path)
    for step in range(1, 6):
        first.scalars(step, {"round": step, "evaluation": {"accuracy": 0.1}, "dropped": {}})
    first.close()
    time.sleep(
        1.01 - time.time() % 1
    )  # files are read in the order of their second, then by number
    second = Board(tmp_path, resumed_after=3)
    second.scalars(4, {"round": 4, "evaluation": {"accuracy": 0.9}, "train-loss": None})
    second.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["scalars"] == ["evaluation/accuracy"]
    points = {e.step: round(e.value, 3) for e in events.Scalars("evaluation/accuracy")}
    assert points == {1: 0.1, 2: 0.1, 3: 0.1, 4: 0.9}


def test_without_tensorboard_the_board_is_off_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with caplog.at_level(logging.INFO):
        board = Board(tmp_path / "tensorboard")
        board.scalars(1, {"accuracy": 0.5})
        board.scalars(2, {"accuracy": 0.5})
        board.close()
    assert [record.message for record in caplog.records] == [
        "TensorBoard is off: pip install tensorboard turns it on"
    ]
    assert not (tmp_path / "tensorboard").exists()


def test_versions_are_json_and_name_what_decides_numbers() -> None:
    found = json.loads(json.dumps(versions()))
    assert {"python", "torch", "numpy"} <= set(found)
