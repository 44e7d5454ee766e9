"""Successive halving over real tiny runs: who goes on, what is played, what is spent."""

import math
from collections import Counter

import pytest

from fedllm_app.config import RunConfig
from fedllm_app.core.errors import FedllmError
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.run.metrics import iterate_lines, read_lines
from fedllm_app.study.budget import Budget
from fedllm_app.study.costs import measured
from fedllm_app.study.halving import best_third, halve, spent_by
from fedllm_app.study.pilot import prepare
from fedllm_app.study.planner import combinations, plan
from fedllm_app.study.predict import Predictor


def test_the_best_third_goes_on_and_the_first_gets_no_favour():
    assert best_third([0.1, 0.5, 0.2, 0.9, 0.3, 0.4], falling=False) == [1, 3]
    assert best_third([0.1, 0.5, 0.2, 0.9], falling=True) == [0, 2]


def test_of_equal_values_the_earlier_goes_on_and_no_number_is_the_worst():
    assert best_third([0.5, 0.5, 0.5], falling=False) == [0]
    assert best_third([math.nan, 0.1, 0.2, math.nan], falling=False) == [1, 2]


@pytest.fixture(scope="module")
def runs(tiny):
    """Return three candidates: client learning rates, whole runs of 9 rounds."""
    flat = tiny.keys() | {
        "run.rounds": 9, "partition.clients": 6, "round.clients": 3, "client.batch": 4,
        "server.lr": 0.05, "lora.targets": "all-linear", "strategy.name": "dense",
        "data.holdout": 0.25,
    }  # fmt: skip
    config = RunConfig.parse(flat)
    axes = {"lora.rank": (4,), "client.lr": (0.001, 0.1, 0.2)}
    predictor = Predictor.of(Parts(config, Place.of(config)), None)
    found = plan(combinations(config, axes), Budget(up_mb=100), predictor)
    return prepare(found, predictor)


def ledger_of(pilot, tiny):
    return tiny.home / "runs" / pilot.config.run.name / "ledger.jsonl"


def test_rungs_resume_and_spending_is_the_ledgers(runs, tiny):
    rounds_mb = runs[0].expected.up_bytes[0] / 1e6
    budget = Budget(up_mb=6 * rounds_mb * 1.02 + 1e-9, base=False)
    ranked = halve(runs, [1, 4], budget, "accuracy", None)
    # All three play one round and the best plays three more: six rounds of the same price.
    assert [p.rung for p in ranked] == [4, 1, 1]
    assert ranked[1].value >= ranked[2].value
    lines = [Counter((x["round"], x["client"]) for x in iterate_lines(ledger_of(p, tiny))
                     if x["direction"] == "up") for p in ranked]  # fmt: skip
    assert [len(c) for c in lines] == [12, 3, 3]
    assert all(count == 1 for c in lines for count in c.values())
    paid = sum(measured(ledger_of(p, tiny).parent).up_bytes.sum() for p in ranked)
    assert spent_by(ranked, budget) == {"up": paid}
    assert paid <= budget.limits["up"]
    records = read_lines(ledger_of(ranked[0], tiny).parent / "metrics.jsonl")
    assert [r["round"] for r in records if "evaluation" in r] == [0, 1, 4]
    assert ranked[0].value == records[-1]["evaluation"]["accuracy"]


def test_a_pilot_that_was_played_is_not_played_again(runs, tiny, monkeypatch):
    def never(config):
        raise AssertionError(config.run.name)

    before = [ledger_of(p, tiny).read_bytes() for p in runs]
    monkeypatch.setattr("fedllm_app.study.halving.run_local", never)
    for pilot in runs:
        pilot.rung, pilot.played, pilot.spent = 0, 0, {}
    budget = Budget(up_mb=100, base=False)
    ranked = halve(runs, [1, 4], budget, "accuracy", None)
    assert [p.rung for p in ranked] == [4, 1, 1]
    assert [ledger_of(p, tiny).read_bytes() for p in runs] == before


def test_a_segment_that_could_pass_the_budget_is_not_begun(runs, tiny):
    budget = Budget(up_mb=runs[0].expected.up_bytes[0] / 1e6, base=False)
    for pilot in runs:
        pilot.rung, pilot.played, pilot.spent = 0, 0, {}
    with pytest.raises(FedllmError, match="the next short run may take"):
        halve(runs, [9], budget, "accuracy", None)


def test_a_candidate_that_diverged_is_behind_all_others(runs, monkeypatch):
    values = iter([0.1, 0.3, 0.2, math.nan])

    def played(pilot, rung, *rest):
        pilot.rung, pilot.value = rung, next(values)

    monkeypatch.setattr("fedllm_app.study.halving._play", played)
    ranked = halve(runs, [1, 4], Budget(up_mb=100), "accuracy", None)
    assert [p.value for p in ranked[:2]] == [0.2, 0.1]
    assert (ranked[2].rung, math.isnan(ranked[2].value)) == (4, True)
