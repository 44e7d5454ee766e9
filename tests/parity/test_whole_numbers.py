"""What must be the same on every machine and in every version: draws, orders, ledger sizes.

The last bit of a float differs between processors. These runs have whole numbers alone: slopes,
rates and weights are whole, and the server steps with sgd at 1, so that every sum is exact.
"""

import numpy as np
import pytest
from toys import P, Scripted, toy_device, toy_loop

from fedllm_app.core.seeds import derive_seed, generator
from fedllm_app.server.methods import STRATEGIES
from fedllm_app.server.sampling import sample_cohort

SLOPES = {str(i): np.arange(1, P + 1, dtype=np.float32) * (1 + i % 3) for i in range(6)}
# Bytes up and down, and the last accepted job of each client, after four rounds of four clients.
SIZES = {
    "floss": (1392, 1392),
    "floss-tiers": (1575, 1575),
    "dense": (2304, 2304),
    "fedavg": (2304, 2304),
    "fedadam": (2304, 2304),
    "fedyogi": (2304, 2304),
    "fedadagrad": (2304, 2304),
    "fedprox": (2304, 2304),
    "partial": (1504, 2304),
    "partial-floss": (1184, 2304),
    "sparse-adapter": (1584, 1620),
    "adapter-lth": (2272, 2296),
    "fed-select": (1584, 1620),
    "ffa-lora": (1920, 1920),
    "hetlora": (2124, 2124),
    "heads": (2048, 2304),
    "photon": (2304, 2304),
    "diloco": (2304, 2304),
    "sparse-diloco": (1456, 2304),
    "streaming-diloco": (2304, 2304),
}
WITH_A_RULE = ("scaffold", "mimelite")  # which the devices of these runs do not have
ACCEPTED = {"0": 4, "2": 4, "3": 2, "5": 3, "1": 4, "4": 4}


def test_seeds():
    assert derive_seed(7, "cohort", 3) == 6464423011466431625
    assert generator(7, "batches", 3, "a").permutation(10).tolist() == [
        5,
        6,
        7,
        9,
        4,
        2,
        0,
        1,
        3,
        8,
    ]


def test_cohorts():
    counts = dict.fromkeys(map(str, range(20)), 1)
    assert [sample_cohort(counts, 5, 7, t) for t in (1, 2)] == [
        ["14", "16", "17", "4", "5"],
        ["0", "12", "14", "4", "5"],
    ]


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in WITH_A_RULE])
def test_bytes_of_a_run(tmp_path, name):
    transport = Scripted(toy_device(SLOPES, tmp_path / "kept"), dict.fromkeys(SLOPES, 2))
    loop = toy_loop(
        tmp_path, transport, method=name, rounds=4, clients=4, evaluate=None,
        server={"lr": 1.0}, strategy={"tier_ranks": "1,2", "fragments": 1},
    )  # fmt: skip
    loop.play()
    totals = loop.recorder.ledger.totals
    assert (totals.up_bytes, totals.down_bytes) == SIZES[name]
    assert loop.state.accepted == ACCEPTED
