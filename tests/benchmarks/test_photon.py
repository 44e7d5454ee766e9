"""The table of pre-training runs: every run parses; those that are compared see equal tokens."""

from benchmarks.photon.cells import BATCH, BETA2, STEPS, entries, trials
from benchmarks.photon.claims import CLAIMS, verdicts
from benchmarks.photon.results import STUDY
from benchmarks.study_kit.claims import Claim, judge
from benchmarks.study_kit.points import by_point

TWINS = ("centralized-steps", "centralized-tokens")
RATES = {
    name: {"client.lr": 0.004, "server.lr": 0.7}
    for name in ("photon", "photon-small", "diloco", "sparse", *TWINS)
}
RUNS = {e.name: e.cell(RATES, {}).config("/home") for e in (*trials(), *entries())}


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
    monkeypatch.setattr("benchmarks.study_kit.study.kept_rows", lambda _: [])
    assert STUDY.best_rates(tmp_path) == {}
    assert entries()[0].cell({}, {}) is None


def test_seeds_of_a_point_stand_together():
    made = [{"run": name} for name in ("diloco-k4-h64-s0", "diloco-k4-h64-s1", "trial-x-1")]
    assert {name: len(own) for name, own in by_point(made).items()} == {"diloco-k4-h64": 2}


def points(**perplexities):
    """Return rows by point, a row for each seed."""
    return {
        name.replace("_", "-"): [
            {"perplexity": value, "settings": {"run.seed": seed}, "up-bytes": 1, "down-bytes": 1}
            for seed, value in enumerate(values)
        ]
        for name, values in perplexities.items()
    }


def test_every_claim_is_about_points_that_are_played():
    named = set(by_point({"run": e.name} for e in entries()))
    assert {name for claim in CLAIMS for name in (claim.ours, claim.theirs)} <= named
    assert {verdict for _, _, verdict in verdicts({})} == {"not yet measured"}


def test_a_margin_counts_only_beyond_the_spread_of_the_seeds():
    claim = Claim("a is at most 1 % above b", "us", "a", "b", 1.0)
    sure = points(a=[100.0, 104.0, 108.0], b=[100.0, 104.0, 108.0])
    assert judge(claim, sure)[2] == "confirmed"
    wide = points(a=[100.0, 108.0, 104.0], b=[100.0, 104.0, 108.0])
    assert judge(claim, wide)[2] == "cannot be told apart"
    worse = points(a=[105.0, 109.0, 113.0], b=[100.0, 104.0, 108.0])
    assert judge(claim, worse)[2] == "does not hold"


def test_one_seed_has_the_spread_of_the_points_with_three():
    claim = Claim("a is not above b", "us", "a", "b")
    noisy = points(a=[97.0], b=[100.0], other=[95.0, 100.0, 105.0])
    assert judge(claim, noisy)[2] == "cannot be told apart"
    assert judge(claim, points(a=[97.0], b=[100.0], other=[99.9, 100.0, 100.1]))[2] == "confirmed"


def test_the_goal_is_missed_where_too_many_bytes_are_sent():
    known = points(sparse_down_k4_h16=[100.0] * 3, diloco_k4_h16=[100.0] * 3)
    assert judge(CLAIMS[0], known)[2] == "does not hold"
    for row in known["diloco-k4-h16"]:
        row |= {"up-bytes": 200, "down-bytes": 8}
    assert judge(CLAIMS[0], known)[2] == "confirmed"


def test_a_run_whose_row_is_kept_is_not_played_again(tmp_path, monkeypatch):
    trial = next(trials())
    row = {"run": trial.name, "settings": dict(trial.cell({}, {}).settings), "loss": 1.0}
    for kept, played in (([], True), ([row], False), ([row | {"settings": {}}], True)):
        monkeypatch.setattr("benchmarks.study_kit.study.kept_rows", lambda _, kept=kept: kept)
        names = [cell.name for cell in STUDY.left("rates", {"org/data": "/here"}, tmp_path)]
        assert (trial.name in names) == played
