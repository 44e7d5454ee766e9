"""Budgets by hand: four rounds of 10 MB up, 20 MB down, 3 s, and a base of 100 MB in round 1."""

import numpy as np
import pytest

from fedllm_app.study.budget import Budget, show
from fedllm_app.study.costs import Costs

MB = 10**6


def costs(rounds=4):
    made = Costs.zeros(rounds)
    made.up_bytes[:], made.down_bytes[:], made.seconds[:] = 10 * MB, 20 * MB, 3
    made.base_bytes[0], made.base_s[0] = 100 * MB, 40
    return made


@pytest.mark.parametrize(
    ("limits", "rounds"),
    [
        ({"up_mb": 40}, 4),
        ({"up_mb": 39}, 3),
        ({"up_mb": 9}, 0),
        ({"down_mb": 119}, 0),
        ({"down_mb": 140}, 2),
        ({"down_mb": 60, "base": False}, 3),
        ({"both_mb": 161}, 2),
        ({"seconds": 49}, 3),
        ({"seconds": 9, "base": False}, 3),
        ({"up_mb": 40, "seconds": 46}, 2),
        ({"up_mb": 10, "per_round": True}, 4),
        ({"up_mb": 9, "per_round": True}, 0),
        ({"down_mb": 20, "seconds": 3, "per_round": True}, 4),
    ],
)
def test_rounds_that_fit(limits, rounds):
    assert Budget(**limits).rounds(costs()) == rounds


def test_a_round_too_dear_in_the_middle_ends_it():
    made = costs()
    made.up_bytes[2] = 11 * MB
    assert Budget(up_mb=10, per_round=True).rounds(made) == 2


def test_a_share_and_what_is_left():
    whole = Budget(up_mb=100, seconds=50)
    assert whole.share(0.2, 40).limits == {"up": 20 * MB, "seconds": 10}
    assert whole.left(0.2).limits == {"up": 80 * MB, "seconds": 40}
    each = Budget(up_mb=1, per_round=True)
    assert each.share(0.2, 40).limits == {"up": 8 * MB}
    assert not each.share(0.2, 40).per_round
    assert each.left(0.2) == each


def test_a_share_is_spent_on_rounds_not_on_the_base():
    used = Budget(down_mb=1000).share(0.5, 4).used(costs())
    assert np.array_equal(used["down"], [20 * MB] * 4)


def test_amounts_have_units():
    assert show("up", 2.5e6) == "2.50 MB"
    assert show("seconds", 65) == "65.0 s"
