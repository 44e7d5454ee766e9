"""The table of pre-training runs: every run parses; those that are compared see equal tokens."""

from benchmarks.photon.cells import BATCH, BETA2, STEPS, entries, trials
from benchmarks.photon.results import NOWHERE, best_rates, by_point

TWINS = ("centralized-steps", "centralized-tokens")
RATES = {
    name: {"client.lr": 0.004, "server.lr": 0.7}
    for name in ("photon", "photon-small", "diloco", "sparse", *TWINS)
}
RUNS = {e.name: e.cell(RATES, NOWHERE).config("/home") for e in (*trials(), *entries())}


def rows(c):
    """Return the rows of all jobs of a run."""
    return c.run.rounds * c.round.step_on * c.client.steps * c.client.batch


def test_every_run_has_a_name_of_its_own():
    assert len(RUNS) == len([*trials(), *entries()])


def test_runs_that_are_compared_see_as_many_rows():
    for entry in entries():
        if entry.figure in ("headline", "tokens", "bytes", "local steps", "size"):
            assert rows(RUNS[entry.name]) == STEPS * BATCH, entry.name
        if entry.figure == "sequential":
            c = RUNS[entry.name]
            assert c.run.rounds * c.client.steps == STEPS // 4, entry.name
    assert all(rows(RUNS[e.name]) == STEPS * BATCH // 2 for e in trials())


def test_the_second_moment_keeps_its_half_life_in_tokens():
    twin = RUNS["centralized-steps-s0"]
    assert twin.client.batch == 4 * BATCH
    assert twin.client.beta2 == BETA2**4
    assert RUNS["centralized-tokens-s0"].client.beta2 == BETA2


def test_a_schedule_ends_with_its_run():
    for name, c in RUNS.items():
        assert c.client.schedule_steps == c.run.rounds * c.client.steps, name


def test_without_trials_no_rate_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.photon.results.kept", dict)
    assert best_rates(tmp_path) == {}
    assert entries()[0].cell({}, NOWHERE) is None


def test_seeds_of_a_point_stand_together():
    made = [{"run": name} for name in ("diloco-k4-h64-s0", "diloco-k4-h64-s1", "trial-x-1")]
    assert {name: len(own) for name, own in by_point(made).items()} == {"diloco-k4-h64": 2}
