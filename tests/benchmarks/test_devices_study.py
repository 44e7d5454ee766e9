"""The study for uneven devices: runs that parse, at equal tokens, and claims from the rows."""

from math import log

import pytest

from benchmarks.devices import results
from benchmarks.devices.cells import (
    BETA2,
    CENTRE,
    DERIVED,
    FLEETS,
    HELD_MODEL,
    ROWS,
    STAGES,
    advised,
    entries,
    half_life,
    held_grid,
)
from benchmarks.devices.claims import verdicts
from benchmarks.devices.document import DOCUMENT, write
from benchmarks.devices.results import NOWHERE, left
from fedllm_app.study.grouped import grouped
from fedllm_app.study.observed import observed

ALL = [*entries(), *held_grid()]
RUNS = {e.name: e.cell(NOWHERE).config("/home") for e in ALL}
LOSS = {"b4": 5.0, "b1": 5.1, "b16": 5.2}


def test_every_run_has_a_name_of_its_own_and_sees_as_many_rows():
    assert len(RUNS) == len(ALL) >= 80
    assert {e.stage for e in ALL} == set(STAGES)
    for name, c in RUNS.items():
        assert c.run.rounds * c.round.cohort * c.client.steps * c.client.batch == ROWS, name
        assert c.client.schedule_steps == c.run.rounds * c.client.steps, name


def test_the_half_life_in_tokens_stays_where_it_is_fixed():
    assert half_life(CENTRE["B"]) == BETA2
    half = {n: c for n, c in RUNS.items() if "-half" in n}
    assert half
    for name, c in half.items():
        assert c.client.beta2 ** (CENTRE["B"] / c.client.batch) == pytest.approx(BETA2), name


def test_an_advice_is_a_run_of_the_held_out_model():
    knobs = {"client.batch": 1, "client.lr": 0.004, "client.schedule": "wsd"}
    c = advised(knobs, 64).cell(NOWHERE).config("/home")
    assert (c.model.source, c.client.batch, c.client.schedule) == (HELD_MODEL, 1, "wsd")


def row_of(entry, loss):
    """Return a row as a finished run of an entry would have it."""
    c = RUNS[entry.name]
    t = c.run.rounds
    row = {
        "run": entry.name, "figure": entry.figure, "settings": dict(entry.settings),
        "loss": loss, "perplexity": 2.718281828**loss, "curve": {str(t): loss}, "rounds": t,
        "clients": min(c.round.cohort, c.partition.clients), "population": c.partition.clients,
        "seed": c.run.seed, "flops": 1e12, "up-bytes": 1e8, "down-bytes": 1e8,
        "derived": list(DERIVED), "parameters": 500_000, "tokens": 64 * ROWS,
        "simulated-s": 100.0, "energy-j": 1e4,
    }  # fmt: skip
    return row | {"fleets": {key: {"seconds": 9.0, "joules": 8.0} for key in FLEETS}}


def loss_of(entry):
    """Return a loss that is least at rate 0.008 federated and 0.002 centralized, batch 4."""
    s = entry.settings
    best = 0.002 if s["partition.clients"] == 1 else 0.008
    return (
        5 + 0.1 * abs(log(s["client.lr"] / best)) + 0.1 * abs(log(s["client.batch"] / 4))
        + 0.001 * s["run.seed"]
    )  # fmt: skip


def test_claims_follow_the_rows_and_wait_without_any():
    assert {verdict for _, _, verdict in verdicts([])} == {"not yet measured"}
    rows = [row_of(e, loss_of(e)) for e in entries()]
    found = {words: verdict for words, _, verdict in verdicts(rows)}
    for batch in (1, 4, 16):
        told = f"A larger learning rate than centralized at batch {batch} (beta2 fixed)"
        assert found[told] == "confirmed"
    assert found["A smaller batch than centralized (beta2 fixed)"] == "does not hold"
    assert found["A schedule that falls ends lower than a constant rate"] == "cannot be told apart"
    robust = next(v for w, v in found.items() if w.startswith("An uneven fleet"))
    assert robust == "confirmed"


def test_a_claim_needs_both_sides_and_knows_the_end_of_a_grid():
    def verdict(loss):
        return {w: v for w, _, v in verdicts([row_of(e, loss(e)) for e in entries()])}

    larger = "A larger learning rate than centralized at batch 4 (beta2 fixed)"
    # Where centralized training does not care, its best rate says nothing.
    flat = verdict(lambda e: 5.0 if e.settings["partition.clients"] == 1 else loss_of(e))
    assert flat[larger] == "cannot be told apart"
    lowest = verdict(lambda e: 5 + log(e.settings["client.lr"] / 0.0005))
    assert lowest[larger] == "not known"


def test_what_follows_from_batch_clients_and_steps_is_no_knob():
    runs = [observed(row_of(e, loss_of(e))) for e in entries()]
    settings = grouped(runs)
    assert not set(DERIVED) & set(settings[0].knobs)
    # Seeds stand together: without them a setting is one run.
    assert len(settings) == len({e.name.rsplit("-s", 1)[0] for e in entries()})
    # So a smaller batch, which has more rounds, is one knob away from the centre.
    centre = next(s.knobs for s in settings if s.runs[0].name == "fed-b4-n8-h16-lr0.008-s0")
    differ = [{k for k, v in s.knobs.items() if v != centre[k]} for s in settings]
    assert {"client.batch"} in differ and {"client.steps"} in differ


def test_rows_name_the_keys_that_follow(tmp_path, monkeypatch):
    entry = entries()[0]
    kept = row_of(entry, 5.0)
    del kept["derived"]  # of a results file of an earlier version
    monkeypatch.setattr(results, "kept_rows", lambda _: [kept])
    (row,) = results.rows_of([entry], tmp_path, "any")
    assert row["derived"] == list(DERIVED)


def test_a_run_whose_row_is_kept_is_not_played_again(tmp_path, monkeypatch):
    entry = entries()[0]
    row = row_of(entry, 5.0)
    for kept, played in (([], True), ([row], False), ([row | {"settings": {}}], True)):
        monkeypatch.setattr(results, "kept_rows", lambda _, kept=kept: kept)
        names = [cell.name for cell in left("batches", {"data.train": "/here"}, tmp_path)]
        assert (entry.name in names) == played


def test_the_page_is_written_from_rows(tmp_path, monkeypatch):
    page = tmp_path / "guide.md"
    page.write_text(DOCUMENT.read_text())
    monkeypatch.setattr("benchmarks.devices.document.DOCUMENT", page)
    monkeypatch.setattr("benchmarks.devices.document.FIGURES", tmp_path)
    held = [row_of(e, loss_of(e)) | {"parameters": 1_500_000} for e in held_grid()]
    write([row_of(e, loss_of(e)) for e in entries()], held)
    text = page.read_text()
    assert "Not played yet." not in text
    assert "confirmed" in text and "Take: " in text and "within chance" in text
    assert (tmp_path / "guide-mixed.png").exists()
