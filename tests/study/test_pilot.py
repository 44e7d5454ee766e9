"""Which candidates a share pays for; every number by hand."""

import pytest
from made import candidate, costs

from fedllm_app.core.errors import ConfigError
from fedllm_app.study.budget import Budget
from fedllm_app.study.pilot import (
    MARGIN,
    Pilot,
    affordable,
    metric_of,
    named,
    pilot_config,
    prepare,
    rungs_of,
    spread,
    stretched,
    survivors,
    told,
    worst_cost,
)


def pilot(up_mb=1.0, rounds=9, fits=None, **settings):
    made = candidate(up_mb, fits, rounds, **settings)
    return Pilot(made, made.config, costs(up_mb, rounds))


def test_a_third_goes_on_rounded_up():
    assert [survivors(n) for n in (1, 2, 3, 4, 9, 10)] == [1, 1, 1, 2, 3, 4]


def test_rungs_stay_below_the_whole_run():
    assert rungs_of(20, 100) == [20, 60]
    assert rungs_of(1, 9) == [1, 3]
    assert rungs_of(1, 10) == [1, 3, 9]
    assert rungs_of(50, 9) == [9]


def test_the_worst_case_is_that_the_dear_ones_survive():
    runs = [pilot(up_mb) for up_mb in (1, 2, 3, 10)]
    # All play 1 round, the two dearest (4 / 3 rounded up) 2 more.
    worst = worst_cost(runs, [1, 3], Budget(up_mb=1))
    assert worst["up"] == pytest.approx(MARGIN * 1e6 * (16 + 2 * 13))


def test_a_candidate_costs_no_more_than_the_rounds_it_can_pay_for():
    runs = [pilot(1, fits=2), pilot(1)]
    assert worst_cost(runs, [1, 3], Budget(up_mb=1))["up"] == pytest.approx(MARGIN * 1e6 * (2 + 2))
    assert (runs[0].until(3), runs[1].until(3)) == (2, 3)


def test_the_first_few_are_spread_out():
    ranks = [16, 8, 4, 2, 1]
    order = spread([pilot(lora__rank=rank) for rank in ranks])
    # On the logarithm, 1 is farthest from 16, then 4 from both; 8 and 2 are left, 8 is earlier.
    assert [p.candidate.settings["lora.rank"] for p in order] == [16, 1, 4, 8, 2]


def test_words_are_spread_too():
    cells = [(r, v) for v in ("fp32", "int8") for r in (4, 1)]
    order = spread([pilot(lora__rank=r, wire__up_values=v) for r, v in cells])
    first = [tuple(p.candidate.settings.values()) for p in order[:2]]
    assert first == [(4, "fp32"), (1, "int8")]


def chosen(share_mb, runs, first=1, rounds=9, most=0):
    picked, rungs = affordable(runs, Budget(up_mb=share_mb), first, rounds, most)
    return len(picked), rungs


def test_as_many_as_the_share_surely_pays_for():
    runs = [pilot(lora__rank=r) for r in (1, 2, 4, 8, 16, 32)]
    # Six: 6 + 2 * 2 = 10 rounds of 1 MB, and 2 % on top.
    assert chosen(10.21, runs) == (6, [1, 3])
    assert chosen(10.19, runs) == (5, [1, 3])  # 5 + 2 * 2
    assert chosen(8.17, runs) == (4, [1, 3])  # 4 + 2 * 2
    # Too little for two in a second rung: more candidates on the first alone.
    assert chosen(8.15, runs) == (6, [1])
    assert chosen(2.05, runs) == (2, [1])
    assert chosen(99, runs, most=3) == (3, [1])


def test_what_is_left_of_the_share_buys_longer_rungs():
    runs = [pilot(rounds=18, lora__rank=r) for r in (1, 2, 4, 8)]
    # From 4 + 2 * 2 rounds to 4 * 3 + 2 * 6 = 24; the next, 32, is too dear.
    assert stretched(runs, [1, 3], Budget(up_mb=25), 18) == [3, 9]
    assert stretched(runs, [1, 3], Budget(up_mb=9), 18) == [1, 3]
    assert stretched(runs, [1], Budget(up_mb=999), 18) == [18]


def test_a_share_that_pays_for_no_comparison_is_refused():
    runs = [pilot(lora__rank=r) for r in (1, 2)]
    with pytest.raises(ConfigError, match=r"2.04 MB of 2.00 MB \(up\) needed"):
        chosen(2.0, runs)


def test_short_runs_are_evaluated_on_held_out_training_data():
    whole = candidate(data__evaluate_on="test", round__target=0.5, round__max_up_bytes=99)
    config = pilot_config(whole)
    assert config.data.evaluate_on == "validation"
    assert (config.round.target, config.round.max_up_bytes) == (0, 0)
    assert config.run.name.startswith("pilot-")


def test_a_short_runs_name_hangs_on_what_matters():
    name = pilot_config(candidate(lora__rank=4)).run.name
    assert name != pilot_config(candidate(lora__rank=8)).run.name
    assert name == pilot_config(candidate(lora__rank=4, rounds=50)).run.name


class Flat:
    """A predictor to whom every round is 1 MB."""

    def costs(self, config):
        return costs(1, config.run.rounds)


def test_candidates_that_differ_in_their_rounds_are_one_short_run():
    some = [candidate(rounds=n, run__rounds=n) for n in (9, 18)]
    runs = prepare(some, Flat())
    assert [p.candidate.fits for p in runs] == [18]


def test_the_metric_is_the_targets_or_the_tasks_first():
    assert metric_of(candidate().config) == "accuracy"
    assert metric_of(candidate(round__target_metric="loss").config) == "loss"


def test_a_pilot_with_other_rungs_plays_runs_of_its_own():
    (short,), (longer,) = named([pilot()], 14), named([pilot()], 21)
    assert short.config.run.name != longer.config.run.name
    assert named([pilot()], 14)[0].config.run.name == short.config.run.name


def test_a_pilot_says_what_it_will_play():
    assert "the best third goes on after 7 and 21 rounds; the end is at 63." in told(
        9, 12, [7, 21, 63]
    )
    assert told(3, 4, [21]).endswith("within the budget; they are judged after 21 rounds.")
