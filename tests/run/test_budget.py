"""What a round may cost at most, and when the next is not begun."""

import pytest

from fedllm_app.run.budget import Cost, over_budget
from fedllm_app.run.settings import RoundSettings


@pytest.mark.parametrize(
    ("key", "limit", "spent", "more", "over"),
    [
        ("max_up_bytes", 100, Cost(60, 0, 0), Cost(40, 999, 999), False),
        ("max_up_bytes", 100, Cost(60, 0, 0), Cost(41, 0, 0), True),
        ("max_down_bytes", 100, Cost(0, 60, 0), Cost(999, 40, 999), False),
        ("max_down_bytes", 100, Cost(0, 60, 0), Cost(0, 41, 0), True),
        ("max_seconds", 10.0, Cost(0, 0, 9.5), Cost(999, 999, 0.5), False),
        ("max_seconds", 10.0, Cost(0, 0, 9.5), Cost(0, 0, 0.6), True),
        ("max_simulated_s", 10.0, Cost(0, 0, 99, 9.5), Cost(9, 9, 9, 0.5), False),
        ("max_simulated_s", 10.0, Cost(0, 0, 0, 9.5), Cost(0, 0, 0, 0.6), True),
    ],
)
def test_a_budget_may_be_used_up_but_not_exceeded(key, limit, spent, more, over):
    why = over_budget(RoundSettings(**{key: limit}), spent, more)
    assert bool(why) == over
    if over:
        assert f"round.{key.replace('_', '-')} = {limit:g}" in why


def test_no_budget_is_no_limit():
    assert over_budget(RoundSettings(), Cost(2**60, 2**60, 1e9), Cost(1, 1, 1)) == ""
