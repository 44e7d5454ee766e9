"""The table of cross-device runs: every run parses; runs that are compared differ as they say."""

import json
from math import log

import pytest
from pyarrow import parquet, table

from benchmarks.crossdevice.cells import (
    BASE,
    HEADLINE,
    RATES,
    SEEDS,
    STAGES,
    entries,
    pretrained,
    trials,
)
from benchmarks.crossdevice.claims import CLAIMS, by_rounds, verdicts
from benchmarks.crossdevice.document import transfer, ways
from benchmarks.crossdevice.results import STUDY
from benchmarks.crossdevice.texts import by_article, places, prepare
from benchmarks.study_kit.claims import judge
from benchmarks.study_kit.points import by_point
from fedllm_app.core.errors import DataError
from fedllm_app.models.scratch import DEVICE_SHAPES

CHOSEN = {shape: {"client.lr": 0.3, "server.lr": 0.003} for shape in DEVICE_SHAPES}
RUNS = {e.name: e.cell(CHOSEN, {}).config("/home") for e in STUDY.every}
NO_UPLOAD_OF_ITS_OWN = ("full", "transfer")


def test_every_run_has_a_name_and_a_stage():
    assert len(RUNS) == len([*trials(), *entries()])
    assert {e.stage for e in STUDY.every} == set(STAGES)


def test_rates_beyond_the_trials_are_new_and_taken_by_nobody():
    further = [e for e in entries() if e.figure == "edges"]
    assert len({e.name for e in (*trials(), *further)}) == len([*trials()]) + len(further)
    assert {RUNS[e.name].run.rounds for e in (*trials(), *further)} == {20}


def test_every_shape_has_as_many_trials():
    tried = [e.figure for e in trials()]
    assert {tried.count(shape) for shape in tried} == {len(RATES)}
    assert {e.tuned_as for e in entries()} - {""} <= set(tried)


def test_runs_that_are_compared_take_as_many_steps():
    compared = [RUNS[e.name] for e in entries() if e.figure not in ("pretrained", "edges")]
    for c in compared:
        taken = (c.run.rounds, c.round.clients, c.client.steps, c.client.batch)
        assert taken == (40, 10, 4, 8)
        assert c.partition.name == "natural"


def test_a_pre_training_ends_with_its_schedule():
    central = [RUNS[e.name] for e in entries() if e.figure == "pretrained"]
    assert len(central) == 6
    for c in central:
        assert c.client.schedule_steps == c.run.rounds * c.client.steps


def test_the_rows_of_claims_have_three_seeds():
    seeds = [RUNS[f"{point}-s{seed}"].run.seed for point in HEADLINE for seed in SEEDS]
    assert seeds == [*SEEDS] * len(HEADLINE)


def test_a_run_that_goes_on_names_the_model_that_it_needs():
    for entry in entries():
        source = RUNS[entry.name].model.source
        expected = (pretrained(source.partition("/")[2]),) if source[:3] == "pre" else ()
        assert entry.needs == expected
        if expected:
            assert RUNS[entry.name].model.tokenizer == ""


def test_a_place_stands_where_its_placeholder_stood(tmp_path):
    here = places(tmp_path, {"roles": tmp_path / "roles.parquet", "text": tmp_path})
    for entry in STUDY.every:
        c = entry.cell(CHOSEN, here).config(tmp_path)
        for value in (c.data.train, c.model.source, c.model.tokenizer):
            assert value == "" or value.startswith((str(tmp_path), "scratch:"))


def point_of(perplexity, up, curve=()):
    """Return the rows of a point, a row for each seed."""
    curve = {str(number): log(value) for number, value in curve}
    seeds = ({"run.seed": seed} for seed in SEEDS)
    return [
        {"perplexity": perplexity, "settings": seed, "up-bytes": up, "down-bytes": 1,
         "curve": curve, "figure": "paper"}
        for seed in seeds
    ]  # fmt: skip


def test_every_claim_is_about_points_that_are_played():
    named = set(by_point({"run": e.name} for e in entries()))
    assert {name for claim in CLAIMS for name in (claim.ours, claim.theirs)} <= named
    assert {verdict for _, _, verdict in verdicts({})} == {"not yet measured"}


@pytest.mark.parametrize(
    ("perplexity", "up", "verdict"),
    [(95.0, 100, "confirmed"), (95.0, 120, "does not hold"), (105.0, 100, "does not hold")],
)
def test_a_tenth_of_the_upload_is_part_of_the_claim(perplexity, up, verdict):
    known = {
        "lstm-small-full": point_of(100.0, 1000),
        "transformer-small-combined": point_of(perplexity, up),
    }
    assert judge(CLAIMS[0], known)[2] == verdict
    assert judge(CLAIMS[1], known | {"lstm-tiny-full": point_of(110.0, 1)})[2] == (
        "confirmed" if perplexity == 95.0 else "does not hold"
    )


def test_pre_training_is_judged_by_rounds():
    known = {
        "lstm-small-full": point_of(200.0, 1, [(0, 900), (5, 300), (10, 200)]),
        "lstm-small-transfer": point_of(100.0, 1, [(0, 250), (5, 190), (10, 100)]),
    }
    assert by_rounds(known, "lstm")[1:] == (
        "200.0 after 5 rounds instead of 10 (1 seed)",
        "confirmed",
    )
    assert "| lstm-small |  | 200.0 | 10 | 5 |" in transfer(known)
    known["lstm-small-transfer"] = point_of(240.0, 1, [(0, 250), (10, 240)])
    assert by_rounds(known, "lstm")[2] == "does not hold"
    assert "| lstm-small-transfer | 240.0 ± 0.0 (3 seeds) | +20.0 % |" in ways(known, "paper")


def test_a_model_that_a_run_needs_is_trained_again_where_it_is_gone(tmp_path, monkeypatch):
    first, known = pretrained("lstm-small"), {}
    for entry in STUDY.every:
        cell = entry.cell(CHOSEN, {})
        known[entry.name] = {"run": entry.name, "settings": dict(cell.settings), "loss": 1.0}
        if entry.name == "trial-lstm-small-0.3-0.003":
            known[entry.name]["loss"] = 0.5
    # The other shapes choose their first trial, so that rows with other rates are not theirs.
    monkeypatch.setattr("benchmarks.study_kit.study.kept_rows", lambda _: [*known.values()])
    assert STUDY.best_rates(tmp_path)["lstm-small"] == CHOSEN["lstm-small"]

    def to_play(stage):
        return {cell.name for cell in STUDY.left(stage, {}, tmp_path)}

    assert first not in to_play("pretraining")
    del known["lstm-small-transfer-s1"]
    assert first in to_play("pretraining")
    assert "lstm-small-transfer-s1" in to_play("seeds")


def test_an_article_is_a_user_with_its_paragraphs():
    long = "one\n\n" + "x" * 1000
    assert by_article(["short", long]) == [("article 0", "one"), ("article 0", "x" * 1000)]


def test_the_texts_are_written_once(tmp_path):
    with pytest.raises(DataError, match=r"literature/train\.parquet"):
        prepare(tmp_path / "home", {"roles": tmp_path, "text": tmp_path})
    for source in ("literature", "textbooks", "techdocs", "wikipedia"):
        (tmp_path / source).mkdir()
        texts = [f"{source} and words " * 80, "more of them"]
        parquet.write_table(table({"text": texts}), tmp_path / source / "train.parquet")
    here = prepare(tmp_path / "home", {"roles": tmp_path, "text": tmp_path})
    assert parquet.read_table(here["text/articles"]).to_pydict()["user"] == ["article 0"]
    assert parquet.read_table(here["text/public"]).num_rows == 6
    vocabulary = json.loads((tmp_path / "home/text/tokenizer/tokenizer.json").read_text())
    assert len(vocabulary["model"]["vocab"]) > 258
    assert BASE["model.tokenizer"] in here
