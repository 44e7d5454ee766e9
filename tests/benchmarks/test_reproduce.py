"""The reproduction's table of runs, and what it says of numbers that a person can check."""

import json
import shutil
from dataclasses import replace

import pytest

from benchmarks import record
from benchmarks.reproduce import cells, claims, document, results
from fedllm_app.run.metrics import read_lines
from fedllm_app.study.sweep import play

RATES = {m: {"client.lr": 0.01, "server.lr": 0.003} for m in cells.COMPARED + cells.OTHERS}
ENTRIES = cells.entries()


def of(figure, **wanted):
    found = [e for e in ENTRIES if e.figure == figure]
    return [e for e in found if all(getattr(e, k) == v for k, v in wanted.items())]


@pytest.mark.parametrize("method", cells.COMPARED + cells.OTHERS)
def test_every_run_of_a_method_parses(method, tmp_path):
    own = [e for e in ENTRIES if e.method == method]
    assert own
    for entry in own:
        entry.cell(RATES, results.NOWHERE).config(tmp_path)


def test_every_method_has_the_same_trials():
    for method in cells.COMPARED + cells.OTHERS:
        grid = {
            (e.settings["client.lr"], e.settings["server.lr"]) for e in of("tuning", method=method)
        }
        assert grid == {(c, s) for c in (0.01, 0.1) for s in (0.003, 0.01, 0.03)}


def test_the_figures_hold_what_the_thesis_compares():
    for figure in ("5.1", "5.2"):
        for method in cells.COMPARED:
            seeds = [e.seed for e in of(figure, method=method, task="20newsgroups")]
            assert sorted(seeds) == [0, 1, 2]
        for task in cells.TASKS:
            assert {e.method for e in of(figure, task=task)} == {*cells.COMPARED, *cells.OTHERS}
    assert len(of("5.3")) == 3 * 5
    ups = [e.settings.get("strategy.d-up") for e in of("5.4")]
    assert ups == [None, 1 / 4, 1 / 16, 1 / 64]
    assert len(of("options")) == 5 * 3
    assert {(e.name.partition("-floss-")[2], e.stage) for e in of("seeds")} == {
        (f"{name}-s{seed}", "seeds") for name in ("r16-d16-u16", "r4-d4-u4") for seed in (1, 2)
    }


def test_one_name_is_one_run():
    seen = {}
    for entry in ENTRIES:
        settings = entry.cell(RATES, results.NOWHERE).settings | {"run.rounds": 0}
        assert seen.setdefault(entry.name, settings) == settings, entry.name
    # Dense, FLoSS and rank/4 of figure 5.2 are points of 5.3.
    shared = {e.name for e in of("5.2", seed=0)} & {e.name for e in of("5.3")}
    assert shared == {f"20n-dirichlet-{m}-s0" for m in ("dense-r16", "dense-r4", "floss-r16-d4-u4")}


def test_runs_wait_for_their_rates():
    entry = of("5.2", method="adapter-lth")[0]
    assert entry.cell({}, results.NOWHERE) is None
    assert of("5.2", task="cifar10")[0].cell({}, results.NOWHERE) is not None


def test_a_round_lasts_as_long_as_its_slowest_client(tmp_path):
    # 25 MB down at 200 Mbps is 1 s; 25 MB up is 1 s at 200 Mbps, 4 s at 50, 16 s at 12.5.
    lines = [
        (1, "a", "down", 25_000_000), (1, "a", "up", 0), (1, "b", "down", 0),
        (1, "b", "up", 25_000_000), (1, "", "base", 10**12), (2, "a", "down", 50_000_000),
    ]  # fmt: skip
    names = ("round", "client", "direction", "bytes")
    rows = (dict(zip(names, x, strict=True)) | {"clients": 1} for x in lines)
    (tmp_path / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert results.simulated_seconds(tmp_path, "thesis-1x", 2) == [1.0, 3.0]
    assert results.simulated_seconds(tmp_path, "thesis-4x", 2) == [4.0, 6.0]
    assert results.simulated_seconds(tmp_path, "thesis-16x", 1) == [16.0]


def row(method, score, communication=1.0, seed=0, **more):
    return {
        "run": f"{method}-{communication}-{seed}", "task": "20newsgroups", "method": method,
        "seed": seed, "score": score, "communication": communication,
        "settings": {"lora.rank": 16},
    } | more  # fmt: skip


def empty(**rows):
    return {figure: [] for figure in results.FIGURES} | rows


def test_a_claim_is_judged_only_beyond_the_spread():
    def judged(ours, theirs, least):
        rows = [row("floss", x, seed=i) for i, x in enumerate(ours)]
        rows += [row("other", x, seed=i) for i, x in enumerate(theirs)]
        return claims.above("claim", rows, "other", least)[2]

    assert judged([0.40, 0.42], [0.30, 0.32], 0.03) == "confirmed"
    assert judged([0.35, 0.35], [0.33, 0.33], 0.03) == "above, but by less than claimed"
    assert judged([0.35, 0.35], [0.345, 0.345], 0.0) == "cannot be told apart"
    assert judged([0.31], [0.35], 0.0) == "cannot be told apart"  # one seed: 4.4 points
    assert judged([0.30], [0.35], 0.0) == "does not hold"
    assert judged([], [0.35], 0.0) == "not yet measured"


def test_savings_are_those_of_the_cheapest_run_that_is_as_good():
    dense, good = row("dense", 0.42), row("floss", 0.412, 0.125)
    cheap, other = row("floss", 0.38, 0.05), row("sparse-adapter", 0.37, 0.25)
    rows = empty(**{"5.2": [dense, other], "5.3": [good, cheap]})
    assert claims.as_good_as_dense(rows)[2] == "partly: up to 8.0x"
    assert claims.less_than_sparse(rows)[2] == "confirmed"  # 0.25 / 0.05
    small = row("floss", 0.42, 0.01) | {"settings": {"lora.rank": 1}}
    # A setting is held against the same seeds, and a fortunate first one does not carry it.
    more = [row("dense", 0.45, seed=1), row("floss", 0.36, 0.05, seed=1)]
    lucky = [cheap | {"score": 0.42}, more[1]]
    assert claims.as_good_as_dense(empty(**{"5.2": [dense], "5.3": lucky[:1]}))[2] == "confirmed"
    all_ = empty(**{"5.2": [dense, more[0]], "5.3": [good, lucky[0]], "seeds": lucky[1:]})
    assert claims.as_good_as_dense(all_)[2] == "partly: up to 8.0x"
    rows["5.3"] = [cheap | {"score": 0.3}, small]  # the rank would be what saves
    assert claims.as_good_as_dense(rows)[2] == "does not hold"
    assert claims.less_than_sparse(rows)[2] == "does not hold"


def test_slow_uploads_are_judged_by_how_soon_dense_is_met():
    def of_54(method, d_up, seconds, to_dense):
        budget = {"seconds": seconds, "score": 0.3, "seconds-to-dense": to_dense}
        own = {
            "settings": {"strategy.d-up": d_up},
            "budget": {"1x": budget | {"seconds-to-dense": 5}, "16x": budget},
        }
        return row(method, 0.3) | own

    dense = of_54("dense", 1, 20, 20)
    cells = [of_54("floss", 1 / 4, 20, 9), of_54("floss", 1 / 16, 20, 7)]
    for last, verdict in ((6, "confirmed"), (None, "confirmed"), (21, "confirmed")):
        rows = empty(**{"5.4": [dense, *cells, of_54("floss", 1 / 64, 20, last)]})
        assert claims.slow_uploads(rows)[2] == verdict
    late = [of_54("floss", d, 20, None) for d in (1 / 4, 1 / 16, 1 / 64)]
    assert claims.slow_uploads(empty(**{"5.4": [dense, *late]}))[2] == "does not hold"
    assert claims.slow_uploads(empty(**{"5.4": cells}))[2] == "not yet measured"


def test_a_document_without_runs_says_so(tmp_path, monkeypatch):
    path, readme = tmp_path / "doc.md", tmp_path / "README.md"
    path.write_text("by hand\n<!-- claims -->\n<!-- end -->\n<!-- missing -->\nold\n<!-- end -->\n")
    readme.write_text("<!-- methods -->\n<!-- end -->\n")
    monkeypatch.setattr(document, "DOCUMENT", path)
    monkeypatch.setattr(document, "README", readme)
    document.write_documents(empty(), ENTRIES, {})
    text = path.read_text()
    assert text.startswith("by hand\n") and "old" not in text
    assert "confirmed" not in text and text.count("not yet measured") >= 2 * 9
    assert "5.4: 0 of 4 measured; missing: `20n-dirichlet-dense-r16-evaluate-every-10-s0`" in text
    assert readme.read_text().count("not yet measured") == 9 * 6
    document.write_documents(empty(), ENTRIES, {})
    assert path.read_text() == text


def test_rows_come_from_runs_that_were_played_as_the_table_says(tiny, tmp_path, monkeypatch):
    """Two short runs, dense and FLoSS, through sweep, rows and figures."""
    monkeypatch.setattr("benchmarks.record.RESULTS", tmp_path / "results")
    small = {
        "run.rounds": 2, "partition.clients": 6, "round.clients": 2, "lora.rank": 2,
        "lora.alpha": 2.0, "data.eval-examples": 6, "round.evaluate-every": 1, "data.strip": "none",
        "task.max-tokens": 16,
    }  # fmt: skip
    pair = [
        replace(e, settings=dict(e.settings) | small)
        for m in ("dense", "floss")
        for e in of("5.1", method=m, task="20newsgroups", seed=0)
    ]
    places = {key: tiny.keys()[key] for key in results.NOWHERE}
    play([e.cell(RATES, places) for e in pair], tmp_path, say=lambda line: None)
    rows = results.collect(pair, RATES, tmp_path)
    dense, floss = rows["5.1"]
    assert (dense["communication"], dense["rounds"], dense["head"]) == (1.0, 2, "whole")
    last = read_lines(tmp_path / "runs" / pair[1].name / "metrics.jsonl")[-1]
    sent = dense["up-bytes"]["2"] + dense["down-bytes"]["2"]
    assert floss["communication"] == (last["up-bytes"] + last["down-bytes"]) / sent
    assert floss["score"] == last["evaluation"]["accuracy"]
    written = (tmp_path / "results" / "reproduce-5.1.json").read_text()
    assert json.loads(written)["rows"] == rows["5.1"] and str(tmp_path) not in written
    # Other rates are another run: no row. A folder that is gone keeps the row that is written.
    other = RATES | {"floss": {"client.lr": 0.1, "server.lr": 0.003}}
    assert [r["method"] for r in results.rows_of("5.1", pair, other, tmp_path)] == ["dense"]
    assert results.rows_of("5.1", pair, RATES, tmp_path / "elsewhere") == rows["5.1"]


def test_the_tables_of_the_documents_are_those_of_the_committed_results(tmp_path, monkeypatch):
    kept = tmp_path / "results"
    shutil.copytree(record.RESULTS, kept)
    monkeypatch.setattr("benchmarks.record.RESULTS", kept)
    committed = {name: getattr(document, name) for name in ("DOCUMENT", "README")}
    for name, path in committed.items():
        monkeypatch.setattr(document, name, tmp_path / path.name)
        shutil.copy(path, tmp_path)
    rates = results.best_rates(tmp_path)
    document.write_documents(results.collect(ENTRIES, rates, tmp_path), ENTRIES, rates)
    for path in committed.values():
        assert (tmp_path / path.name).read_text() == path.read_text(), path.name
