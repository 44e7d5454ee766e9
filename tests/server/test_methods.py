"""FLoSS and the dense methods as plans, on twenty parameters holding 1 to 20."""

import numpy as np
import pytest
from toys import LAYOUT, PARAMS

from fedllm_app.core.plan import All, Positions, TopK
from fedllm_app.server.methods import STRATEGIES, Inputs, StrategySettings
from fedllm_app.server.optimizer import ServerSettings


def plan(name, params=PARAMS, cohort=("a", "b"), **settings):
    inputs = Inputs(StrategySettings(name=name, **settings), LAYOUT, 1, params, cohort)
    return STRATEGIES[name].plan(inputs, {})[0]


def test_floss_sends_the_largest_magnitudes_and_asks_for_the_largest_changes():
    params = PARAMS.copy()
    params[2] = -30
    round_ = plan("floss", params, d_down=0.25, d_up=0.1)
    client = round_.groups["all"]
    assert client.down.idx.tolist() == [2, 16, 17, 18, 19]
    assert (client.fill, client.train, client.up) == ("zero", All(), TopK(0.1))
    assert (round_.mean, round_.step, round_.served) == ("cohort", All(), "all")
    assert round_.group_of == {"a": "all", "b": "all"}


def test_floss_of_equal_weights_keeps_the_lower_positions():
    client = plan("floss", np.ones(20, np.float32)).groups["all"]
    assert client.down.idx.tolist() == [0, 1, 2, 3, 4]


def test_floss_keeps_at_least_one():
    client = plan("floss", d_down=1e-6, d_up=1e-6).groups["all"]
    assert client.down.idx.tolist() == [19]


def test_floss_at_density_1_is_dense():
    assert plan("floss", d_down=1, d_up=1).groups == plan("dense").groups
    one_way = plan("floss", d_down=1, d_up=0.5).groups["all"]
    assert (one_way.down, one_way.up) == (All(), TopK(0.5))
    other_way = plan("floss", d_down=0.5, d_up=1).groups["all"]
    assert isinstance(other_way.down, Positions)
    assert other_way.up == All()


@pytest.mark.parametrize("name", ["dense", "fedavg"])
def test_dense_methods_send_everything_each_way(name):
    client = plan(name).groups["all"]
    assert (client.down, client.train, client.up) == (All(), All(), All())


def test_fedavg_is_defined_with_sgd_of_rate_1():
    server = ServerSettings().resolved(STRATEGIES["fedavg"].optimizer)
    assert (server.optimizer, server.lr, server.momentum) == ("sgd", 1.0, 0.0)
    assert ServerSettings().resolved(STRATEGIES["floss"].optimizer).optimizer == "adam"


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_method_says_where_it_is_from_and_which_keys_it_reads(name):
    method = STRATEGIES[name]
    fields = {field.replace("_", "-") for field in StrategySettings.model_fields} - {"name"}
    assert method.source
    assert method.about.endswith(".")
    assert set(method.keys) <= fields


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_served_model_is_planned_without_a_cohort(name):
    round_ = plan(name, cohort=())
    assert round_.served in round_.groups
    assert round_.group_of == {}
