"""docs/strategies.md names every method and key, and its worked example runs as it is printed."""

import re
from pathlib import Path

import numpy as np
import pytest

from fedllm_app.config import RunConfig
from fedllm_app.play import run_local
from fedllm_app.run.checkpoint import latest_checkpoint, load_state
from fedllm_app.run.ledger import Totals
from fedllm_app.run.metrics import iterate_lines, read_lines
from fedllm_app.server.methods import STRATEGIES
from fedllm_app.server.methods.base import DOWN_KEYS

PAGE = (Path(__file__).parents[1] / "docs" / "strategies.md").read_text("utf-8")
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_example_is_short():
    assert len(EXAMPLE.splitlines()) < 40


def test_the_example_trains_and_sends_a_quarter_of_the_tensors(tmp_path, monkeypatch, tiny):
    (tmp_path / "quarter.py").write_text(EXAMPLE)
    monkeypatch.syspath_prepend(tmp_path)
    keys = tiny.keys("sequence-classification") | {
        "strategy.name": "quarter:QUARTER", "run.name": "own", "run.rounds": 6,
        "partition.clients": 3, "round.clients": 2, "round.evaluate-every": 1, "lora.rank": 2,
        "run.checkpoint-every": 1,
    }  # fmt: skip
    folder = run_local(RunConfig.parse(keys))
    rounds = read_lines(folder / "metrics.jsonl")[1:]
    assert [(r["clients"], r["dropped"]) for r in rounds] == [(2, {})] * 6
    # A round of A's alone moves nothing while B is zero.
    assert any(r["update-norm"] > 0 for r in rounds)
    sums = Totals.of(folder / "ledger.jsonl")
    assert sums.down_bytes == sums.dense_down_bytes
    assert sums.up_bytes < 0.9 * sums.dense_up_bytes
    up = [x for x in iterate_lines(folder / "ledger.jsonl") if x["direction"] == "up"]
    assert {line["positions"] for line in up} == {0}
    # Two checkpoints are kept: between them a round moved its tensors and no other.
    last = latest_checkpoint(folder / "checkpoints")
    _, after = load_state(last)
    _, before = load_state(min(last.parent.glob("round-*")))
    moved = int((after["params"] != before["params"]).sum())
    assert moved <= up[-1]["values"] // 4
    assert np.isfinite(after["params"].numpy()).all()


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_method_has_its_row_and_its_paragraph(name):
    (row,) = re.findall(rf"^\| `{name}` \|.*$", PAGE, re.MULTILINE)
    assert set(DOWN_KEYS) <= set(STRATEGIES[name].keys)  # said once, for all of them
    assert set(re.findall(r"`([a-z-]+)`", row)) == {name, *STRATEGIES[name].keys} - set(DOWN_KEYS)
    assert f"\n**{name}.**" in PAGE
    for paper in re.findall(r"arXiv (\d{4}\.\d{5})", STRATEGIES[name].source):
        assert paper in PAGE
