"""Where records stand on an axis, and when it is logarithmic."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from fedllm_app.report.run import read_run
from fedllm_app.report.xaxis import ROUNDS, SIMULATED, TRAFFIC, UPLOAD

RECORD = {"round": 3, "up-bytes": 10, "down-bytes": 200, "simulated-s": 1.5}


def test_a_record_stands_at_the_sum_of_an_axis_keys() -> None:
    assert [x.of(RECORD) for x in (ROUNDS, UPLOAD, TRAFFIC, SIMULATED)] == [3, 10, 210, 1.5]
    assert math.isnan(TRAFFIC.of({"round": 3, "up-bytes": 10}))
    assert math.isnan(SIMULATED.of({"round": 3}))


@pytest.mark.parametrize(
    ("ends", "logarithmic"),
    [([4.0, 1.0], False), ([4.1, 1.0], True), ([5.0, 0.0], False), ([], False)],
)
def test_more_than_four_times_apart_is_logarithmic(ends: list[float], logarithmic: bool) -> None:
    curves = [([0.0, end], [0.1, 0.2]) for end in ends]
    assert SIMULATED.logarithmic(curves) == logarithmic
    assert UPLOAD.logarithmic(curves) == logarithmic
    assert not ROUNDS.logarithmic(curves)


def test_rounds_begin_where_the_last_one_ended(run_maker: Callable[..., Path]) -> None:
    run = read_run(run_maker(rounds=2, up_mbps=20.0))
    first, second = (r["simulated-s"] for r in run.rounds)
    assert SIMULATED.edges(run, 2) == [0.0, first, second]
    # A round that is in the ledger and not yet among the records takes no time yet.
    assert SIMULATED.edges(run, 3) == [0.0, first, second, second]
    assert ROUNDS.edges(run, 2) == [0.5, 1.5, 2.5]
