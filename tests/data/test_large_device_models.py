"""A round of each model of 20M parameters: two users of Shakespeare, by its family's recipe."""

from pathlib import Path

import pytest

from fedllm_app.config import RunConfig, read_recipe
from fedllm_app.models.scratch import DEVICE_SHAPES
from fedllm_app.play import run_local
from fedllm_app.run.metrics import read_lines

pytestmark = pytest.mark.real
RECIPES = Path(__file__).parents[2] / "recipes" / "cross-device"
# Bytes up of two users, as a share of all parameters in fp32: everything, or 40 % in 8 bits.
SHARE = {"lstm": (1.0, 1.01), "transformer": (0.08, 0.12), "conformer": (0.08, 0.12)}


@pytest.mark.parametrize("family", SHARE)
def test_a_model_of_20_million_learns_in_a_round(family, shared, tmp_path):
    keys = read_recipe(RECIPES / f"{family}-20m.toml") | {
        "run.home": str(tmp_path), "run.name": family, "run.rounds": 1,
        "client.steps": 2, "client.batch": 4,
        "data.train": str(shared / "shakespeare-roles" / "speeches.parquet"),
        "data.eval-examples": 64, "round.clients": 2, "round.evaluate-every": 1,
        "round.evaluate-clients": 3,
    }  # fmt: skip
    folder = run_local(RunConfig.parse(keys))
    records = read_lines(folder / "metrics.jsonl")
    losses = [r["evaluation"]["loss"] for r in records if r.get("evaluation")]
    assert losses[-1] < losses[0]
    sent = next(r["up-bytes"] for r in reversed(records) if "up-bytes" in r)
    low, high = SHARE[family]
    whole = 4 * DEVICE_SHAPES[f"{family}-large"].parameters(4096)
    assert low < sent / (2 * whole) < high
