"""A ledger of two rounds, read back."""

import pytest

from fedllm_app.devices.compute import Compute, ComputeSettings
from fedllm_app.devices.network import Network, NetworkSettings
from fedllm_app.run.ledger import Ledger
from fedllm_app.study.costs import Costs, measured


@pytest.fixture
def folder(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl", base_client_bytes=1000)
    for round_, clients in ((1, "ab"), (2, "bc")):
        for client in clients:
            ledger.record(round_, client, "all", "down", 64, 0, 136, 500)
        ledger.record(round_, clients[0], "all", "up", 64, 6, 30, 500)
        ledger.end_round()
    ledger.close()
    return tmp_path


def test_sums_by_round(folder):
    costs = measured(folder)
    assert costs.down_bytes.tolist() == [400, 400]
    assert costs.up_bytes.tolist() == [100, 100]
    assert costs.base_bytes.tolist() == [2000, 1000]
    assert not costs.seconds.any()


def test_seconds_are_the_slowest_participants(folder):
    network = Network(NetworkSettings(down_mbps=8, up_mbps=4), 0)
    costs = measured(folder, network)
    # 200 bytes down at a byte a microsecond, 100 up at half that.
    assert costs.seconds == pytest.approx([400e-6, 400e-6])
    # In round 2 only c, which sends nothing back, gets the base: 1,200 us in place of 400.
    assert costs.base_s == pytest.approx([1000e-6, 800e-6])


def test_local_steps_take_their_seconds_between_down_and_up(folder):
    network = Network(NetworkSettings(), 0, Compute(ComputeSettings(step_s=2.0), 0))
    costs = measured(folder, network, lambda client: {"c": 5}.get(client, 3))
    assert costs.seconds == pytest.approx([6.0, 10.0])
    assert not costs.base_s.any()


def test_the_first_rounds(folder):
    assert measured(folder).first(1).base_bytes.tolist() == [2000]
    assert Costs.zeros(3).rounds == 3
