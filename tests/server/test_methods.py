"""Every method as a plan, on twenty parameters holding 1 to 20."""

import numpy as np
import pytest
from toys import HEADS, LAYOUT, PARAMS

from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError
from fedllm_app.core.plan import TopK
from fedllm_app.core.support import All, Draw, Positions, expand
from fedllm_app.server.asked import expected
from fedllm_app.server.methods import STRATEGIES, method_of
from fedllm_app.server.methods.base import Inputs
from fedllm_app.server.methods.settings import StrategySettings
from fedllm_app.server.methods.shares import shrinking, tier_of
from fedllm_app.server.settings import ServerSettings
from fedllm_app.wire.select import top_positions
from fedllm_app.wire.tiles import block_positions


def plan(name, params=PARAMS, cohort=("a", "b"), state=None, **settings):
    return step(name, params, cohort, state or {}, **settings)[0]


def step(name, params=PARAMS, cohort=("a", "b"), state=None, **settings):
    inputs = Inputs(
        StrategySettings(name=name, **settings),
        LAYOUT,
        1,
        params,
        np.zeros_like(params),
        cohort,
        heads=HEADS,
    )
    return STRATEGIES[name].plan(inputs, state or {})


# All that is no adapter.
HEAD = list(range(10, 20))


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
    server = ServerSettings().resolved(STRATEGIES["fedavg"].server)
    assert (server.optimizer, server.lr, server.momentum) == ("sgd", 1.0, 0.0)
    assert ServerSettings().resolved(STRATEGIES["floss"].server).optimizer == "adam"


def test_pretraining_methods_are_defined_with_their_outer_step():
    def resolved(**keys):
        server = RunConfig.parse({"run.name": "x", **keys}).resolved().server
        return server.optimizer, server.lr, server.momentum, server.nesterov

    assert resolved(**{"strategy.name": "photon"}) == ("sgd", 1.0, 0.0, False)
    assert resolved(**{"strategy.name": "diloco"}) == ("sgd", 0.7, 0.9, True)
    assert resolved(**{"strategy.name": "sparse-diloco"}) == ("sgd", 1.0, 0.0, False)
    others = {"strategy.name": "diloco", "server.lr": 0.1, "server.momentum": 0.5}
    assert resolved(**others) == ("sgd", 0.1, 0.5, True)


def test_sparse_diloco_keeps_a_decayed_residual_and_sends_the_top_of_each_block():
    client = plan("sparse-diloco", d_up=1 / 64).groups["all"]
    assert (client.down, client.train, client.up) == (All(), All(), TopK(1 / 64, side=64))
    assert (client.keeps, client.decay, client.rounding) == ({"residual"}, 0.95, "nearest")
    assert plan("sparse-diloco").mean == "senders"
    plain = plan("sparse-diloco", feedback_decay=0.0, top_k="global", rounding="random", d_up=1)
    client = plain.groups["all"]
    assert (client.up, client.keeps, client.rounding) == (All(), frozenset(), "random")
    assert plan("sparse-diloco", feedback_decay=0.5, d_up=0.1, block=8).groups["all"].decay == 0.5


@pytest.mark.parametrize("name", ["floss", "floss-tiers", "sparse-adapter", "fed-select"])
def test_every_sparse_method_chooses_by_block_where_it_is_asked_to(name):
    state = (
        step(name, top_k="block", block=2)[1] if name in ("sparse-adapter", "fed-select") else {}
    )
    client = next(iter(plan(name, state=state, top_k="block", block=2).groups.values()))
    density = 1 / 16 if name == "floss-tiers" else 0.25
    chosen = block_positions(PARAMS, density, 2, LAYOUT)
    assert client.down.idx.tolist() == chosen.tolist()
    assert chosen.tolist() != top_positions(PARAMS, density).tolist()
    if isinstance(client.up, TopK):
        assert client.up.side == 2


def test_partial_training_trains_and_returns_one_random_part_for_each_client():
    round_ = plan("partial", train_share=0.5, train_always="head*, *lora_B*", mean="senders")
    client = round_.groups["all"]
    assert (client.down, client.train, round_.mean, round_.step) == (
        All(), client.up, "senders", All(),
    )  # fmt: skip
    assert client.up.args == {"share": 0.5, "always": ["head*", "*lora_B*"]}
    draws = [Draw(0, t, "all", name) for t in (1, 2, 3) for name in "abcd"]
    parts = [frozenset(expand(client.up, LAYOUT, draw).positions().tolist()) for draw in draws]
    assert len(set(parts)) > 2
    with pytest.raises(ConfigError, match=r"strategy\.train-always has 'head', which names none"):
        plan("partial", train_always="head")


def test_partial_floss_sends_the_largest_of_its_part():
    client = plan("partial-floss", d_up=0.1, error_feedback=True, rounding="nearest").groups["all"]
    assert client.up == TopK(0.1, client.train)
    assert (client.keeps, client.rounding) == ({"residual"}, "nearest")
    assert plan("partial-floss", d_up=1).groups == plan("partial").groups


def test_more_fragments_than_layers_are_refused():
    with pytest.raises(ConfigError, match=r"strategy\.fragments is 2; part 1 of them"):
        plan("streaming-diloco", fragments=2)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_method_says_where_it_is_from_and_which_keys_it_reads(name):
    method = STRATEGIES[name]
    fields = {field.replace("_", "-") for field in StrategySettings.model_fields} - {"name"}
    assert method.source
    assert method.about.endswith(".")
    assert set(method.keys) <= fields


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_served_model_is_planned_without_a_cohort(name):
    # The toy has no layers: one fragment is all of it.
    round_ = plan(name, cohort=(), fragments=1)
    assert round_.served in round_.groups
    assert round_.group_of == {}


def test_a_whole_head_is_sent_beside_the_top():
    # The head is no candidate: a quarter is of the 10 others, and 2.5 rounds up to 3.
    round_ = plan("floss", head="whole")
    client = round_.groups["all"]
    assert client.down.idx.tolist() == [7, 8, 9, *HEAD]
    up = expected(client.up, LAYOUT, Draw(0, 1, "all", "a"), "fp32", 256)
    assert (up.within, up.always.tolist(), up.count) == (None, HEAD, 13)


def test_a_mask_keeps_a_whole_head_too():
    for name in ("sparse-adapter", "fed-select"):
        state = step(name)[1]
        assert plan(name, state=state, head="whole").step.idx.tolist() == [7, 8, 9, *HEAD]
    # Half of 10, then a quarter of 10 among those: 5 and 2.5, which rounds up.
    state = step("adapter-lth")[1]
    first, state = step("adapter-lth", state=state, decay=0.5, head="whole")
    second, _ = step("adapter-lth", state=state, decay=0.5, head="whole")
    assert first.step.idx.tolist() == [5, 6, 7, 8, 9, *HEAD]
    assert second.step.idx.tolist() == [7, 8, 9, *HEAD]


PRUNED = ("sparse-adapter", "adapter-lth", "fed-select")


@pytest.mark.parametrize("name", PRUNED)
def test_a_mask_waits_for_the_first_step_not_for_the_first_round(name):
    # A round that took no step leaves the state as it was: the next is the dense one.
    assert plan(name).groups["all"].up == All()
    assert plan(name).groups["all"].up == All()
    _, state = step(name)
    assert isinstance(plan(name, state=state).groups["all"].up, Positions)


def test_what_adapter_lth_has_pruned_stays_pruned():
    _, state = step("adapter-lth")
    _, state = step("adapter-lth", state=state, decay=0.5)
    grown = PARAMS.copy()
    grown[:5] = 1000
    mask = plan("adapter-lth", grown, state=state, decay=0.5).step.idx
    assert mask.tolist() == [15, 16, 17, 18, 19]


def test_a_mask_never_shrinks_to_nothing():
    _, state = step("adapter-lth")
    for _ in range(3):
        round_, state = step("adapter-lth", state=state, decay=1e-200)
        assert round_.step.idx.tolist() == [19]


def test_a_client_is_of_the_tier_of_its_number_or_of_its_name():
    assert [tier_of(str(i), 3) for i in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    names = [tier_of(f"role {i}", 3) for i in range(300)]
    assert names == [tier_of(f"role {i}", 3) for i in range(300)]
    assert all(80 < names.count(tier) < 120 for tier in range(3))


def test_tiers_say_which_clients_get_what_and_which_model_counts():
    round_ = plan("floss-tiers", cohort=("0", "1", "5"))
    assert round_.group_of == {
        "0": "0-density-0.0625", "1": "1-density-0.25", "5": "2-density-1",
    }  # fmt: skip
    assert round_.served == "2-density-1"
    assert round_.groups["2-density-1"] == plan("dense").groups["all"]
    round_ = plan("hetlora", cohort=("0", "1", "5"), tier_ranks="2,1,1")
    assert round_.served == "rank-2"
    assert [round_.groups[round_.group_of[c]].rank for c in ("0", "1", "5")] == [2, 1, 1]


def test_what_is_kept_and_over_whom_the_mean_is():
    assert plan("floss").groups["all"].keeps == frozenset()
    assert plan("floss", error_feedback=True).groups["all"].keeps == {"residual"}
    for name in PRUNED:  # from the dense round on
        first, state = step(name, error_feedback=True)
        then = plan(name, state=state, error_feedback=True)
        assert first.groups["all"].keeps == then.groups["all"].keeps == {"residual"}
    tiers = plan("floss-tiers", error_feedback=True, mean="senders")
    assert all(group.keeps == {"residual"} for group in tiers.groups.values())
    assert tiers.mean == "senders"


@pytest.mark.parametrize(
    ("density", "rounds", "decay"), [(0.75, 2, 0.5), (7 / 12, 3, 0.5), (0.2455, 200, 0.98)]
)
def test_the_decay_that_has_a_mean(density, rounds, decay):
    assert shrinking(density, rounds) == pytest.approx(decay, abs=1e-4)


@pytest.mark.parametrize(("density", "rounds"), [(0.25, 4), (1.0, 9), (0.5, 1)])
def test_a_mean_that_no_decay_has(density, rounds):
    with pytest.raises(ValueError, match="a density above 1 / "):
        shrinking(density, rounds)


OWN = """
from fedllm_app.server.methods.base import Method, one_group
from fedllm_app.core.plan import ClientPlan
MINE = Method(lambda inputs, state: (one_group(ClientPlan(), inputs.cohort), state), "us", "Own.")
"""


def test_a_method_of_ones_own_is_named_by_its_module(tmp_path, monkeypatch):
    (tmp_path / "own_method.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    assert method_of("own_method:MINE").about == "Own."


@pytest.mark.parametrize("name", ["no_such:X", "json:loads", "json:nothing", ":", "x:", "fl"])
def test_a_method_that_is_none_is_refused(name):
    with pytest.raises(ConfigError, match=r"strategy\.name is '"):
        method_of(name)
