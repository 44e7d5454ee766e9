"""Predicted bytes: by hand on a toy layout, and against the ledgers of real tiny runs."""

import numpy as np
import pytest
from toys import LAYOUT, PARAMS, P

from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError
from fedllm_app.core.plan import ClientPlan, RoundPlan, TopK
from fedllm_app.core.support import Derived, Positions
from fedllm_app.devices.compute import Compute, ComputeSettings
from fedllm_app.devices.network import Network, NetworkSettings
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.play import run_local
from fedllm_app.server.methods import STRATEGIES
from fedllm_app.server.methods.base import Method, one_group
from fedllm_app.study.costs import measured
from fedllm_app.study.predict import Predictor
from fedllm_app.study.uneven import Uneven
from fedllm_app.wire.codec import max_bytes

ALL = ("up_bytes", "down_bytes", "seconds", "base_s")
DENSE = 64 + 4 * P  # header and P values
COUNTS = {"a": 3, "b": 2, "c": 1, "empty": 0}


def config(**keys):
    flat = {"strategy.name": "dense", "lora.rank": 2, "round.clients": 2, "run.rounds": 4}
    return RunConfig.parse(flat | {k.replace("__", "."): v for k, v in keys.items()})


def predictor(network=None):
    return Predictor(LAYOUT, PARAMS, 100, COUNTS, network)


def test_dense_costs_a_header_and_all_values_each_way():
    costs = predictor().costs(config())
    assert costs.up_bytes.tolist() == costs.down_bytes.tolist() == [2 * DENSE] * 4
    assert costs.up_coordinates.tolist() == [2 * P] * 4
    assert not costs.seconds.any()


def test_the_base_comes_once_for_each_client_that_has_data():
    costs = predictor().costs(config(run__rounds=30))
    assert costs.base_bytes[0] == 200
    assert costs.base_bytes.sum() == 300


def test_more_clients_than_there_are_is_all_of_them():
    assert predictor().costs(config(round__clients=9)).up_bytes[0] == 3 * DENSE


def test_seconds_are_those_of_the_slowest_link(tmp_path):
    file = tmp_path / "links.csv"
    file.write_text("client,up-mbps\nc,4\n")  # c sends half as fast
    network = Network(NetworkSettings(down_mbps=8, up_mbps=8, file=str(file)), 0)
    costs = predictor(network).costs(config(round__clients=3))  # 8 Mbps is a byte a microsecond
    assert costs.seconds == pytest.approx([3e-6 * DENSE] * 4)
    assert costs.base_s == pytest.approx([1e-4, 0, 0, 0])


def test_another_rank_is_the_layout_of_a_model_of_that_rank(tiny):
    flat = tiny.keys() | {"lora.targets": "all-linear", "partition.clients": 6}
    two, five = (
        Parts(c, Place.of(c)).model.layout
        for c in (RunConfig.parse(flat | {"lora.rank": rank}) for rank in (2, 5))
    )
    ranks = Predictor(two, np.zeros(two.size, np.float32), 0, COUNTS)
    assert ranks.rank(5).layout == five
    assert ranks.rank(2).layout == two


def test_parameters_begin_as_lora_does_and_grow():
    values = np.where(np.arange(P) < 6, 0.5, 0).astype(np.float32)  # A; the head is zero
    rank = Predictor(LAYOUT, values, 0, COUNTS).rank(4)
    a, b = rank.layout.span("q.lora_A.weight"), rank.layout.span("q.lora_B.weight")
    assert (a.stop - a.start, b.stop - b.start) == (12, 8)
    assert rank.start[a].tolist() == rank.grown[a].tolist() == [0.5] * 12
    assert not rank.start[b].any()
    assert rank.grown[b].tolist() == [0.5] * 8


def falling(inputs, state):
    """One coordinate less every round, chosen by the server, the same ones back."""
    held = Positions(np.arange(P - inputs.job))
    return one_group(ClientPlan(down=held, train=held, up=held), inputs.cohort), state


def warm_up(inputs, state):
    """Everything in round 1, then masks that the state holds."""
    if inputs.job == 1:
        return one_group(ClientPlan(), inputs.cohort), state
    held = Positions(np.arange(5))
    plan = ClientPlan(down=held, train=held, up=held)
    return one_group(plan, inputs.cohort), {"mask": held.idx}


def two_tiers(inputs, state):
    groups = {"whole": ClientPlan(), "slim": ClientPlan(up=Derived("tensors", {"without": ["q*"]}))}
    return RoundPlan(groups, {c: "slim" if c == "b" else "whole" for c in inputs.cohort}), state


def use(monkeypatch, plan):
    monkeypatch.setitem(STRATEGIES, "dense", Method(plan, "here", "A test's."))


def exact(K):
    return max_bytes(K, P, "fp32", 256, explicit=False)


def test_a_plan_that_changes_is_asked_for_in_every_round(monkeypatch):
    use(monkeypatch, falling)
    costs = predictor().costs(config())
    assert costs.up_bytes.tolist() == [2 * exact(P - t) for t in (1, 2, 3, 4)]
    # Down, the positions travel: the first so many of 20 are a bitmap of 3 bytes or fewer in Rice.
    assert all(exact(P - t) < d / 2 <= exact(P - t) + 3 for t, d in enumerate(costs.down_bytes, 1))


def test_a_plan_that_settles_is_not_asked_for_again(monkeypatch):
    asked = []

    def watched(inputs, state):
        asked.append(inputs.job)
        return warm_up(inputs, state)

    use(monkeypatch, watched)
    costs = predictor().costs(config(run__rounds=50))
    assert costs.up_bytes.tolist() == [2 * DENSE] + [2 * exact(5)] * 49
    assert asked == [1, 2, 3, 50]


def test_each_client_costs_what_its_group_does(monkeypatch):
    use(monkeypatch, two_tiers)
    costs = predictor().costs(config(round__clients=3))
    without = [i for i in range(P) if i >= 10]  # q's adapter is 0 to 9
    assert costs.up_bytes.tolist() == [2 * DENSE + exact(len(without))] * 4


def test_a_device_chooses_inside_what_it_may(monkeypatch):
    held = Positions(np.arange(4))
    plan = ClientPlan(down=held, train=held, up=TopK(0.5, held))
    use(monkeypatch, lambda inputs, state: (one_group(plan, inputs.cohort), state))
    # Half of four, explicit: at most a bitmap of 3 bytes.
    up = predictor().costs(config()).up_bytes / 2
    assert exact(2) < up[0] <= exact(2) + 3


def test_seconds_count_the_steps_that_a_clients_examples_take():
    compute = Compute(ComputeSettings(step_s=2.0), 0)
    made = predictor(Network(NetworkSettings(down_mbps=8, up_mbps=8), 0, compute))
    way = 2e-6 * DENSE  # a byte a microsecond, both ways
    # a has 3 examples: two batches of 2 in each of its epochs, or the steps that are asked for.
    costs = made.costs(config(client__batch=2, client__epochs=3, round__clients=3))
    assert costs.seconds == pytest.approx([12 + way] * 4)
    costs = made.costs(config(client__steps=5, round__clients=3))
    assert costs.seconds == pytest.approx([10 + way] * 4)


# The others send what dense does, or what scaffold does.
ALIKE = {"fedavg", "fedadam", "fedyogi", "fedadagrad", "fedprox", "mimelite"}


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in ALIKE])
@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_a_prediction_is_a_bound_and_once_told_of_a_run_within_two_percent(tiny, name, values):
    flat = tiny.keys() | {
        "run.name": f"predicted-{name}-{values}", "run.rounds": 4, "strategy.name": name,
        "lora.targets": "all-linear", "lora.rank": 16, "partition.clients": 6,
        "round.clients": 4, "round.evaluate-every": 0, "wire.up-values": values,
    }  # fmt: skip
    if name == "floss":
        flat |= {"strategy.d-up": 1 / 16}
    if name == "streaming-diloco":
        flat |= {"strategy.fragments": 2}
    c = RunConfig.parse(flat)
    network = Network(NetworkSettings(preset="thesis"), 0)
    paid = measured(run_local(c), network)
    parts = Parts(c, Place.of(c))
    assert parts.model.layout.size > 5000
    made = Predictor.of(parts, network)
    costs = made.costs(c)
    assert costs.base_bytes.tolist() == paid.base_bytes.tolist()
    # Devices that choose are taken to choose evenly, which is the dearest case.
    assert (costs.up_bytes >= 0.995 * paid.up_bytes).all()
    choose = "floss" in name or name == "sparse-diloco"
    exact = ("down_bytes", "base_s") if choose else ALL
    for which in exact:
        assert getattr(costs, which) == pytest.approx(getattr(paid, which), rel=0.02), which
    # Once a run with other clients has told how unevenly they do, all of it is as measured.
    other = RunConfig.parse(flat | {"run.name": f"like-{name}-{values}", "partition.clients": 5})
    made.learn(other, run_local(other))
    costs = made.costs(c)
    for which in ALL:
        told, found = getattr(costs, which).sum(), getattr(paid, which).sum()
        assert told == pytest.approx(found, rel=0.02), which


def test_of_several_runs_the_nearest_in_densities_is_learned_from(tiny):
    def run(up, clients, values="fp32"):
        return RunConfig.parse(tiny.keys() | {
            "run.name": f"near-{up}-{clients}-{values}", "run.rounds": 4, "strategy.d-up": up,
            "lora.targets": "all-linear", "partition.clients": clients, "round.clients": 4,
            "round.evaluate-every": 0, "wire.up-values": values,
        })  # fmt: skip

    asked = run(1 / 64, 6, "int8")
    made = Predictor.of(Parts(asked, Place.of(asked)), None)
    even = made.costs(asked).up_bytes.sum()
    far, near = run(1 / 2, 5), run(1 / 64, 5)
    made.learn(far, run_local(far))
    alone = made.costs(asked).up_bytes.sum()
    made.learn(near, run_local(near))
    paid = measured(run_local(asked)).up_bytes.sum()
    assert made.costs(asked).up_bytes.sum() == pytest.approx(paid, rel=0.02)
    assert abs(alone - paid) > abs(made.costs(asked).up_bytes.sum() - paid)
    # Dense payloads have no positions, so such a run tells nothing of others.
    dense = RunConfig.parse(far.flat() | {"run.name": "near-dense", "strategy.name": "dense"})
    fresh = Predictor.of(Parts(asked, Place.of(asked)), None)
    fresh.learn(dense, run_local(dense))
    assert fresh.costs(asked).up_bytes.sum() == even


def test_devices_of_their_own_are_named_by_their_links(tiny, tmp_path):
    c = RunConfig.parse(tiny.keys() | {"data.train": "node", "data.labels": "3"})
    with pytest.raises(ConfigError, match="name them in a file of links"):
        Predictor.of(Parts(c, Place.of(c)), None)
    file = tmp_path / "links.csv"
    file.write_text("client,down-mbps,up-mbps\nann,8,8\nbob,8,8\n")
    network = Network(NetworkSettings(file=str(file)), 0)
    assert Predictor.of(Parts(c, Place.of(c)), network).costs(c).base_bytes[0] > 0


def test_a_run_of_another_model_is_not_learned_from(tiny):
    keys = tiny.keys() | {"partition.clients": 5, "run.rounds": 1, "round.evaluate-every": 0}
    asked = RunConfig.parse(keys | {"lora.targets": "all-linear"})
    other = RunConfig.parse(keys | {"run.name": "fewer-adapters", "lora.targets": "auto"})
    made = Predictor.of(Parts(asked, Place.of(asked)), None)
    with pytest.raises(ConfigError, match=r"--like is .*fewer-adapters.* bytes in a dense payload"):
        made.learn(other, run_local(other))


def test_of_a_longer_run_as_many_rounds_are_learned_from_as_are_planned(tiny):
    keys = tiny.keys() | {
        "run.name": "longer-like", "run.rounds": 6, "strategy.d-up": 1 / 16, "server.lr": 0.1,
        "lora.targets": "all-linear", "partition.clients": 6, "round.clients": 4,
        "round.evaluate-every": 0,
    }  # fmt: skip
    longer = RunConfig.parse(keys)
    paid = measured(run_local(longer)).up_bytes
    made = Predictor.of(Parts(longer, Place.of(longer)), None)
    made.learn(longer, tiny.home / "runs" / "longer-like")
    for rounds in (2, 6):
        told = made.costs(RunConfig.parse(keys | {"run.rounds": rounds})).up_bytes
        assert told == pytest.approx(paid[:rounds], rel=1e-3)  # round by round


def test_rounds_beyond_the_known_ones_are_like_its_later_half():
    uneven, even = Uneven(), np.array([0, 100, 100, 100, 100, 100])  # round 1 is dense
    uneven.learn("up", np.array([0.0, -1.0]), np.array([0, 40, 70, 90, 100, 80]), even)
    later = uneven.taken("up", np.array([0.0, -2.0]), 8)
    assert later.tolist() == pytest.approx([1, 0.4, 0.7, 0.9, 1, 0.8, 0.9, 0.9])
    assert uneven.taken("down", np.array([0.0, -2.0]), 2).tolist() == [1, 1]
