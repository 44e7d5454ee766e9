"""Which runs are seeds of one setting: none that differ in anything but the seed."""

from math import inf, log

import pytest

from fedllm_app.core.errors import DataError
from fedllm_app.study.grouped import grouped, spread
from fedllm_app.study.guide import advise, choices, front
from fedllm_app.study.guide_words import neighbours, sentences
from fedllm_app.study.observed import observed, of_one_size
from fedllm_app.study.on_fleet import OnFleet

FLEET = OnFleet("phone=1")


def row(name, perplexity, rounds=10, seed=0, curve=None, derived=(), **settings):
    """Return a row of 100 clients, 5 a round, evaluated half-way and at its end."""
    own = {key.replace("__", ".").replace("_", "-"): value for key, value in settings.items()}
    halves = {str(rounds // 2): log(2 * perplexity), str(rounds): log(perplexity)}
    return {
        "run": name, "settings": {"run.rounds": rounds, "run.seed": seed} | own,
        "curve": halves if curve is None else curve, "rounds": rounds, "clients": 5,
        "population": 100, "seed": seed, "flops": 1e11 * rounds, "up-bytes": 5e6,
        "down-bytes": 5e6, "parameters": 1000, "tokens": 10_000, "derived": list(derived),
    }  # fmt: skip


def runs(*rows):
    return [observed(one) for one in rows]


@pytest.mark.parametrize("key", ["run__rounds", "client__warmup_steps", "client__schedule_steps"])
def test_runs_of_other_rounds_or_schedules_are_no_seeds(key):
    own = {"client__schedule": "cosine"}
    two = runs(row("a", 200.0, **own, **{key: 20}), row("b", 100.0, **own, **{key: 40}))
    assert [len(setting.runs) for setting in grouped(two)] == [1, 1]
    assert spread(grouped(two)) is None


def test_a_key_that_a_run_does_not_read_is_no_knob_of_it():
    heads = {"strategy__name": "heads", "model__train": "full"}
    three = runs(
        row("whole", 100.0, **{"strategy__name": "photon", "model__train": "full"}),
        row("half", 120.0, strategy__head_share=0.5, **heads),
        row("quarter", 150.0, strategy__head_share=0.25, **heads),
    )
    whole, half, _ = grouped(three)
    assert whole.knobs == {"strategy.name": "photon", "strategy.head-share": None}
    assert half.knobs["strategy.head-share"] == 0.5 and "None" not in whole.words
    take = sentences(advise(three, FLEET, "energy"), "phone=1")[1]
    assert take == "Take: strategy.name = photon; all 10 rounds."


def test_an_advice_has_all_values_that_made_it():
    """A share that all partial runs have is no knob, and still no default."""
    two = runs(
        row("whole", 120.0, strategy__name="photon", model__train="full"),
        row("part", 100.0, strategy__name="partial", strategy__train_share=0.25,
            model__train="full"),
    )  # fmt: skip
    advice = advise(two, FLEET, "energy")
    assert set(advice.choice.setting.knobs) == {"strategy.name"}
    take = sentences(advice, "phone=1")[1]
    assert take.startswith("Take: strategy.name = partial, strategy.train-share = 0.25; all")


def test_the_same_run_played_twice_is_one_seed():
    (setting,) = grouped(runs(row("a", 100.0), row("again", 100.0)))
    assert [run.name for run in setting.runs] == ["a"]


def test_how_many_clients_there_are_is_given_and_not_advised():
    few = [row(name, 50.0) | {"population": 5} for name in ("five", "more")]
    every, told = runs(*few, *(row(name, 100.0) for name in "abc")), []
    assert {run.population for run in of_one_size(every, say=told.append)} == {100}
    assert told == ["Asked about federations of 100 clients. Left out: runs with others (2 of 5)."]
    assert [run.name for run in of_one_size(every, 5)] == ["five", "more"]
    with pytest.raises(DataError, match="no run has 7 clients; expected one of 5, 100"):
        of_one_size(every, 7)


def test_rounds_are_a_knob_of_the_advice():
    two = runs(row("a", 200.0, rounds=20), row("b", 100.0, rounds=40))
    advice = advise(two, FLEET, "energy")
    goal, take, seen = sentences(advice, "phone=1")[:3]
    assert "best seen (100.0)" in goal and "(1 seeds)" in seen
    assert take == "Take: run.rounds = 40; all 40 rounds."
    assert [(n.knob, n.before, n.after) for n in advice.neighbours] == [("run.rounds", 40, 20)]


def test_runs_without_a_common_round_have_an_advice():
    other = runs(row("a", 200.0, rounds=10), row("b", 100.0, rounds=14))
    assert advise(other, FLEET, "energy").choice.of == 14
    # Seeds of which one reached its target earlier: it stays what it was.
    early = row("c", 90.0, rounds=7, curve={"7": log(90.0)}) | {"asked": 20}
    late = row("d", 90.0, rounds=9, seed=1, curve={"9": log(90.0)}) | {"asked": 20}
    for one in (early, late):
        del one["settings"]["run.rounds"]
    (setting,) = grouped(runs(early, late))
    assert setting.curve == {9: pytest.approx(log(90.0))}
    choice = advise(runs(early, late), FLEET, "compute").choice
    assert (choice.round, choice.of) == (9, 20)
    assert choice.costs["compute"] == pytest.approx((7e11 + 9e11) / 2)


def test_a_derived_key_is_no_knob_where_it_is_one_function_of_the_others():
    follows = {"derived": ["run.rounds"]}
    study = runs(
        row("small", 90.0, rounds=40, client__batch=1, **follows),
        row("again", 91.0, rounds=40, client__batch=1, seed=1, **follows),
        row("large", 100.0, rounds=10, client__batch=4, **follows),
    )
    settings = grouped(study)
    assert [dict(s.knobs) for s in settings] == [{"client.batch": 1}, {"client.batch": 4}]
    assert [len(s.runs) for s in settings] == [2, 1]
    # A run that breaks the rule makes it a knob again, and is no seed of another.
    odd = runs(row("odd", 80.0, rounds=80, client__batch=1, **follows))
    assert [len(s.runs) for s in grouped(study + odd)] == [2, 1, 1]
    assert "run.rounds" in grouped(study + odd)[0].knobs


def test_a_setting_that_diverged_is_told_of_and_never_taken():
    nothing = {"5": log(50.0), "8": None}
    study = runs(
        row("good", 100.0, client__lr=0.1),
        row("lucky", 50.0, client__lr=0.2),
        row("not", 1.0, rounds=8, curve=nothing, client__lr=0.2, seed=1) | {"asked": 10},
    )
    study[2].settings["run.rounds"] = 10
    assert study[2].diverged and study[2].curve[8] == inf
    advice = advise(study, FLEET, "energy")
    assert advice.choice.setting.knobs == {"client.lr": 0.1}
    assert "client.lr=0.2 (1 of 2)" in " ".join(advice.doubts)
    assert not any("highest that was tried" in doubt for doubt in advice.doubts)
    assert neighbours(advice)[1][:4] == ["client.lr", "0.1", "0.2", "diverged"]
    assert all(c.loss < inf for c in front(choices(study, FLEET), "energy"))
    assert spread(grouped(study)) is None
    with pytest.raises(DataError, match=r"every setting diverged.*smaller client\.lr"):
        advise(study[2:], FLEET, "energy")
