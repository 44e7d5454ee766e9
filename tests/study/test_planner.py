"""What is varied, what fits, in which order, and how a mistake is refused."""

import numpy as np
import pytest
from made import candidate
from toys import LAYOUT, PARAMS, P

from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError
from fedllm_app.study.budget import Budget
from fedllm_app.study.planner import (
    combinations,
    fraction,
    frontier,
    label,
    plan,
    read_axes,
)
from fedllm_app.study.predict import Predictor

FLOSS = RunConfig()
DENSE = RunConfig.parse({"strategy.name": "dense"})


def test_by_default_rank_densities_and_upload_type_are_varied():
    axes = read_axes(FLOSS, [])
    assert axes["lora.rank"] == (1, 2, 4, 8, 16, 32)
    assert axes["strategy.d-up"] == (1 / 64, 1 / 16, 1 / 4, 1.0)
    assert axes["wire.up-values"] == ("fp32", "int4", "int8")
    assert axes["wire.down-values"] == ("fp32", "int8")
    assert axes["round.clients"] == (5,)


def test_the_configurations_own_value_is_among_them():
    own = RunConfig.parse({"lora.rank": 3, "strategy.d-up": 0.1})
    axes = read_axes(own, [])
    assert 3 in axes["lora.rank"]
    assert 0.1 in axes["strategy.d-up"]


def test_keys_that_the_method_does_not_read_are_left_alone():
    assert not any(key.startswith("strategy.") for key in read_axes(DENSE, []))
    head = RunConfig.parse({"model.train": "head"})
    assert "lora.rank" not in read_axes(head, [])


def test_asked_values_take_the_defaults_place():
    axes = read_axes(FLOSS, ["strategy.d-up=1/16, 0.5", "client.lr=0.1,0.01", "lora.rank=4"])
    assert axes["strategy.d-up"] == (1 / 16, 0.5)
    assert axes["client.lr"] == (0.01, 0.1)
    assert axes["lora.rank"] == (4,)


def test_semicolons_part_values_that_hold_commas():
    asked = "server.optimizer=a,b;c"
    assert read_axes(FLOSS, [asked])["server.optimizer"] == ("a,b", "c")


@pytest.mark.parametrize(
    ("config", "asked", "message"),
    [
        (FLOSS, "lora.rank", "is not KEY=V1,V2"),
        (FLOSS, "lora.rnk=1", "is not KEY=V1,V2"),
        (FLOSS, "lora.rank=,", "is not KEY=V1,V2"),
        (FLOSS, "data.train=a,b", "expected one of lora.rank"),
        (FLOSS, "strategy.name=floss,dense", "one strategy a plan"),
        (DENSE, "strategy.d-up=1", "'dense' does not read; it reads strategy.down"),
        (RunConfig.parse({"model.train": "head"}), "lora.rank=1", "model.train = 'head'"),
    ],
)
def test_what_may_not_be_varied_is_refused(config, asked, message):
    with pytest.raises(ConfigError, match=message):
        read_axes(config, [asked])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("strategy.d-up=1.5,0.5", "strategy.d-up is 1.5; expected less than or equal to 1"),
        ("lora.rank=4,four", "lora.rank is 'four'; expected"),
        ("lora.rank=1/2", "lora.rank is '1/2'; expected"),
        ("wire.up-values=fp8", "wire.up-values is 'fp8'; expected"),
        ("round.clients=5,50", "round.clients is 50; expected at most partition.clients = 20"),
    ],
)
def test_an_illegal_value_that_was_asked_for_is_refused(asked, message):
    key = asked.partition("=")[0]
    with pytest.raises(ConfigError, match=message):
        combinations(FLOSS, read_axes(FLOSS, [asked]), [key])


def test_an_illegal_combination_is_left_out():
    axes = {"partition.clients": (5, 20), "round.clients": (5, 10)}
    pairs = [tuple(s.values()) for s, _ in combinations(FLOSS, axes, list(axes))]
    assert pairs == [(5, 5), (20, 5), (20, 10)]


def toy_plan(budget, axes, min_rounds=0):
    config = RunConfig.parse(
        {"strategy.name": "dense", "lora.rank": 2, "round.clients": 1, "run.rounds": 10}
    )
    predictor = Predictor(LAYOUT, PARAMS, 0, {"a": 1, "b": 1})
    return plan(combinations(config, axes), budget, predictor, min_rounds)


def test_what_fits_comes_in_order():
    # Rank 2 takes 64 + 80 bytes each way; rank 1, five coordinates of A and B less, 64 + 60.
    one, two = 64 + 4 * (P - 5), 64 + 4 * P
    axes = {"lora.rank": (1, 2)}
    both = toy_plan(Budget(up_mb=10 * two / 1e6), axes)
    assert [c.settings["lora.rank"] for c in both] == [2, 1]
    assert both[1].affordable.up_bytes.sum() == 10 * one
    # Where rank 2 holds nine rounds alone, it is shown after what holds all, or not at all.
    assert [c.fits for c in toy_plan(Budget(up_mb=9 * two / 1e6), axes, 5)] == [10, 9]
    assert [c.fits for c in toy_plan(Budget(up_mb=9 * two / 1e6), axes)] == [10]


def test_nothing_that_fits_says_how_near_it_came():
    with pytest.raises(ConfigError, match=r"none of 2 .* at most 2 of 10 rounds \(rank=1\)"):
        toy_plan(Budget(up_mb=250 / 1e6), {"lora.rank": (1, 2)}, 5)


def test_of_equal_ones_the_cheaper_is_first():
    dear = candidate(up_mb=4, coordinates=7, wire__up_values="fp32")
    cheap = candidate(up_mb=1, coordinates=7, wire__up_values="int8")
    more = candidate(up_mb=9, coordinates=8, wire__up_values="fp32")
    part = candidate(fits=5, coordinates=99, wire__up_values="int8")
    listed = sorted([part, dear, cheap, more], key=lambda c: c.order())
    assert listed == [more, cheap, dear, part]


def test_the_frontier_is_what_cannot_be_raised():
    def cell(rank, d_up, values="fp32", **more):
        return candidate(lora__rank=rank, strategy__d_up=d_up, wire__up_values=values, **more)

    top, wide, int8 = cell(4, 1 / 4), cell(16, 1 / 16), cell(4, 1 / 16, "int8")
    longer = cell(4, 1 / 16, fits=9)
    below, narrow = cell(4, 1 / 16), cell(1, 1 / 4)
    assert frontier([below, top, wide, int8, narrow]) == [top, wide, int8, narrow]
    shorter = cell(4, 1 / 4, fits=5)
    assert frontier([shorter, longer]) == [shorter, longer]


def test_words():
    assert [fraction(v) for v in (1 / 64, 0.3, 1.0, 8, "int8")] == ["1/64", "0.3", "1", "8", "int8"]
    assert label({"lora.rank": 4, "strategy.d-up": 1 / 16}) == "rank=4 d-up=1/16"
    assert np.isclose(float(fraction(0.1).split("/")[1]), 10)


def test_a_rank_keeps_its_scale_unless_alpha_is_varied():
    base = RunConfig.parse({"lora.rank": 8, "lora.alpha": 16.0})
    pairs = combinations(base, {"lora.rank": (1, 4)})
    assert [config.lora.alpha for _, config in pairs] == [2.0, 8.0]
    pairs = combinations(base, {"lora.rank": (1, 4), "lora.alpha": (16.0,)})
    assert [config.lora.alpha for _, config in pairs] == [16.0, 16.0]


def test_a_density_that_a_given_decay_overrules_is_not_varied():
    given = RunConfig.parse({"strategy.name": "adapter-lth"})
    assert "strategy.density" not in read_axes(given, [])
    automatic = RunConfig.parse({"strategy.name": "adapter-lth", "strategy.decay": 0})
    assert read_axes(automatic, [])["strategy.density"] == (1 / 16, 1 / 4, 1 / 2)
