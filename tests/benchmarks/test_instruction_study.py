"""The study of instruction tuning: its runs are legal, tuned alike, and its table is whole."""

import pytest

from benchmarks.instruction import results
from benchmarks.instruction.__main__ import places
from benchmarks.instruction.cells import METHODS, SERVER_LRS, entries, trials
from benchmarks.instruction.figures import curves
from fedllm_app.config import RunConfig

RATES = {method: {"server.lr": SERVER_LRS[0]} for method in METHODS}


@pytest.mark.parametrize("entry", [*trials(), *entries()], ids=lambda entry: entry.name)
def test_every_run_is_legal_where_its_data_and_model_lie(entry, tmp_path):
    found = places(tmp_path, {"data": tmp_path, "model": tmp_path / "m.gguf"})
    config = entry.cell(RATES, found).config(tmp_path)
    assert config.data.train in (f"{tmp_path}/medquad", f"{tmp_path}/assistant")
    assert config.model.source == f"{tmp_path}/m.gguf"
    assert config.server.lr in SERVER_LRS


def test_all_methods_are_tuned_by_the_same_rates():
    tried = {(entry.figure, entry.tries["server.lr"]) for entry in trials()}
    assert tried == {(method, lr) for method in METHODS for lr in SERVER_LRS}
    assert {entry.tuned_as for entry in entries()} == set(METHODS)


def test_the_table_shows_loss_scores_bytes_and_texts(tmp_path, monkeypatch):
    text = {"asked": "a | b", "reference": "r", "before": "x\ny", "after": "z"}
    row = {
        "run": "medquad-floss-s0", "settings": {"server.lr": 0.01},
        "loss-before": 2.5, "loss": 2.25,
        "answers-before": {"rouge-l": 0.1}, "answers-after": {"rouge-l": 0.2}, "texts": [text],
        "up-bytes": 1_500_000, "down-bytes": 2_000_000,
        "curve": {"0": 2.5, "2": 2.25}, "megabytes": {"0": 0.0, "2": 3.5},
    }  # fmt: skip
    monkeypatch.setattr("benchmarks.reproduce.figures.FOLDER", tmp_path / "figures")
    page = tmp_path / "page.md"
    page.write_text(results.DOCUMENT.read_text("utf-8"), "utf-8")
    monkeypatch.setattr(results, "DOCUMENT", page)
    other = row | {"run": "medquad-floss-s1", "loss": 2.35, "curve": {"0": 2.5, "2": 2.35}}
    results.write([row, other])
    shown = page.read_text("utf-8")
    assert "| medquad | floss | 0.01 | 2.500 ± 0.000 | 2.300 ± 0.071 | 0.100 ± 0.000 |" in shown
    assert "| a \\| b | r | x y | z |" in shown
    assert "(figures/instruction-loss.png)" in shown
    assert (tmp_path / "figures" / "instruction-loss.png").stat().st_size > 1000
    # The curve goes over rounds, and over all bytes both ways.
    ((method, points),) = curves([row, other], "medquad", "curve")
    assert (method, points) == ("floss", [(0, 0.0, 2.5), (2, 3.5, pytest.approx(2.3))])
    assert not [*curves([row], "assistant", "curve")]
    assert not [*curves([row], "medquad", "rouge-l")]  # which this row has no curve of


def test_the_settings_of_every_run_are_checked_as_a_recipe_is():
    for entry in (*trials(), *entries()):
        RunConfig.parse(dict(entry.cell(RATES, {}).settings) | {"run.name": entry.name})
