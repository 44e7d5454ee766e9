"""A payload that Flower would not carry is refused before anything is sent."""

import pytest
from fake_grid import FakeGrid
from flwr.app import Array, ArrayRecord
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
from toys import P, toy_loop

from fedllm_app.core.errors import ConfigError
from fedllm_app.flower import limits
from fedllm_app.flower.message import Holdings
from fedllm_app.flower.strategy import FedSparse
from fedllm_app.server.opening import round_bytes

pytestmark = pytest.mark.usefixtures("identity")


def begun(tmp_path, devices, grid):
    def build(transport):
        return toy_loop(tmp_path / "run", transport, rounds=1)

    return FedSparse(build, 1, devices, lambda loop: "a tree").start(grid)


def test_a_payload_beyond_flowers_objects_is_refused_before_the_run(tmp_path, monkeypatch):
    loop = toy_loop(tmp_path / "one", None, rounds=1)
    most = max(round_bytes(loop, 1))
    monkeypatch.setattr(limits, "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", 1)
    monkeypatch.setattr(limits, "MOST_OBJECTS", most)
    limits.check_payloads(loop)
    monkeypatch.setattr(limits, "MOST_OBJECTS", most - 1)
    grid = FakeGrid({1: Holdings({"a": 1})})
    with pytest.raises(ConfigError) as error:
        begun(tmp_path, True, grid)
    said = str(error.value)
    assert said.startswith(f"model.source has {P} trained parameters, and a client's download of")
    assert "expected a smaller model" in said and "strategy.down = 'change'" in said
    assert not grid.pushed and not grid.queries
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_array_travels_in_objects_of_the_size_that_is_reckoned_with():
    size = 2 * FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE + 1
    data = Array("uint8", (size,), "raw", bytes(range(256)) * (size // 256 + 1))
    data = Array("uint8", (size,), "raw", data.data[:size])
    (array,) = ArrayRecord({"payload": data}).children.values()
    assert [len(chunk.data) for _, chunk in array.slice_array()] == [
        FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE, FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE, 1,
    ]  # fmt: skip
