"""The study of instruction tuning: its runs are legal, tuned alike, and kept rows are carried."""

import pytest

from benchmarks.instruction import results
from benchmarks.instruction.__main__ import left
from benchmarks.instruction.cells import METHODS, SERVER_LRS, Places, entries, trials
from fedllm_app.config import RunConfig

RATES = dict.fromkeys(METHODS, SERVER_LRS[0])


@pytest.mark.parametrize("entry", [*trials(), *entries()], ids=lambda entry: entry.name)
def test_every_run_is_legal(entry):
    cell = entry.cell(RATES, Places("/data", "/models/m.gguf"))
    config = RunConfig.parse(dict(cell.settings) | {"run.name": cell.name})
    assert config.data.train == f"/data/{entry.data}"
    assert config.server.lr in SERVER_LRS


def test_all_methods_are_tuned_by_the_same_rates():
    for method in METHODS:
        assert [e.settings["server.lr"] for e in trials() if e.method == method] == [*SERVER_LRS]


def test_a_run_waits_for_its_trials_and_a_kept_row_is_carried(monkeypatch, tmp_path):
    rows = [
        {"run": e.name, "stage": e.stage, "loss": 2.0 - e.settings["server.lr"],
         "settings": dict(e.cell({}, Places()).settings)}
        for e in trials()
    ]  # fmt: skip
    monkeypatch.setattr(results, "kept_rows", lambda name: rows[1:])
    places = Places("/data", "/m.gguf")
    assert [cell.name for cell in left("rates", places, tmp_path)] == [rows[0]["run"]]
    assert "dense" not in results.best_rates(tmp_path)
    monkeypatch.setattr(results, "kept_rows", lambda name: rows)
    assert results.best_rates(tmp_path) == dict.fromkeys(METHODS, max(SERVER_LRS))
    assert len(left("medquad", places, tmp_path)) == len(METHODS)


def test_the_table_shows_loss_scores_bytes_and_texts():
    text = {"asked": "a | b", "reference": "r", "before": "x\ny", "after": "z"}
    row = {
        "stage": "medquad", "data": "medquad", "method": "floss", "loss-before": 2.5, "loss": 2.25,
        "answers-before": {"rouge-l": 0.1}, "answers-after": {"rouge-l": 0.2}, "texts": [text],
        "up-bytes": 1_500_000, "down-bytes": 2_000_000,
    }  # fmt: skip
    shown = results.table([row])
    assert "| medquad | floss | 2.500 | 2.250 | 0.100 | 0.200 | 1.50 | 2.00 |" in shown
    assert "| a \\| b | r | x y | z |" in shown
    assert "not been played" in results.table([])
