"""How much a reply counts: all alike, by examples, by tokens; hostile counts are bounded."""

import numpy as np
import pytest
from toys import P, Scripted, toy_device, toy_loop

from fedllm_app.core.job import Job, TrainMetrics
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import ClientPlan
from fedllm_app.server.aggregate import WEIGHTS
from fedllm_app.server.asked import Asked
from fedllm_app.server.weights import Weights
from fedllm_app.wire.slices import origin_of

ORIGIN = origin_of(ParamLayout(("a",), ((1,),)), "ab" * 16)


def weight(weights, client, units=0):
    asked = Asked(Job(1, client), "all", ClientPlan(), 1, ORIGIN, {}, 0)
    return weights.of(asked, TrainMetrics(units=units))


def test_uniform_counts_every_reply_once():
    weights = Weights("uniform", {"a": 1, "b": 1000}, int)
    assert (weight(weights, "a"), weight(weights, "b"), weights.total) == (1, 1, 2)


def test_examples_count_in_proportion():
    weights = Weights("examples", {"a": 30, "b": 10}, int)
    assert weight(weights, "a") == 3 * weight(weights, "b")
    assert weights.total == weight(weights, "a") + weight(weights, "b") <= WEIGHTS


def test_tokens_count_as_reported_but_no_more_than_training_can_see():
    weights = Weights("tokens", {"a": 10, "b": 10}, lambda examples: 100 * examples)
    assert weights.total <= WEIGHTS
    half, whole = weight(weights, "a", 500), weight(weights, "a", 1000)
    assert half == pytest.approx(whole / 2, abs=1)
    assert weight(weights, "b", 10**15) == whole
    assert weight(weights, "b", 0) == 1


@pytest.mark.parametrize(("by", "moved"), [("uniform", 2.0), ("examples", 1.5)])
def test_the_mean_of_a_round_by_its_weights(tmp_path, by, moved):
    # a moves every coordinate by 1 and has 3 examples; b moves it by 3 and has 1.
    slopes = {"a": np.full(P, 1, np.float32), "b": np.full(P, 3, np.float32)}
    transport = Scripted(toy_device(slopes, tmp_path / "kept"), {"a": 3, "b": 1})
    loop = toy_loop(tmp_path, transport, clients=2, weights=by, server={"lr": 1.0})
    before = loop.optimizer.params.copy()
    loop.play()
    assert (before - loop.optimizer.params).tolist() == [moved] * P


def test_weights_of_whoever_comes_sum_to_no_more_than_a_cohorts():
    # Of 100 clients any 4 may come, or one of them 4 times.
    counts = {str(i): i + 1 for i in range(100)}
    weights = Weights("examples", counts, int, replies=4, fresh=64)
    each = {client: weight(weights, client) for client in counts}
    assert weights.total == 4 * max(each.values()) and weights.total * 64 <= 1 << 24
    # Fine enough that a weight is in proportion to within one in a hundred of the largest.
    largest = max(each.values())
    assert all(abs(each[c] / largest - n / 100) <= 0.01 for c, n in counts.items())
    assert Weights("uniform", counts, int, replies=4, fresh=64).total == 4
    tokens = Weights("tokens", counts, lambda examples: 2048 * examples, replies=4, fresh=64)
    assert weight(tokens, "99", 10**9) * 4 == tokens.total
    assert tokens.total * 64 <= 1 << 24
