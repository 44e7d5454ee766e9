"""Every method on a real small model: what it sends, that it resumes, that its result loads."""

import math
from pathlib import Path

import pytest
import small
from safetensors.torch import load_file

from fedllm_app.config import RunConfig
from fedllm_app.core.support import Derived, Draw, expand
from fedllm_app.deploy.launch import run_flower
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.play import run_local
from fedllm_app.run.ledger import Totals
from fedllm_app.server.methods import STRATEGIES
from fedllm_app.server.methods.floss import dense

ROOT = Path(__file__).parents[2]
ROUNDS = 4
OWN = {
    "floss": small.FLOSS | {"error-feedback": True, "mean": "senders", "head": "whole"},
    "hetlora": {"tier-ranks": "1,2,4"},
    "adapter-lth": {"decay": 0.5},
    "fed-select": {"error-feedback": True},
    "partial": {"train-share": 0.5, "train-always": "*lora_B*"},
    "partial-floss": {"d-up": 1 / 16, "error-feedback": True, "mean": "cohort"},
    "sparse-diloco": {"d-up": 1 / 16, "block": 8},
    "streaming-diloco": {"fragments": 2},
}


def config(folder, name, rounds=ROUNDS, run=""):
    keys = {
        "run": {"name": run or f"every-{name}", "rounds": rounds, "checkpoint-every": 2},
        "strategy": {"name": name} | OWN.get(name, {}),
    }
    if name in ("fedavg", "photon", "diloco", "sparse-diloco", "streaming-diloco"):
        keys["server"] = {"lr": 1.0}
    if name in ("sparse-adapter", "fed-select"):  # one step of Adam carries B past A
        keys["server"] = {"lr": 0.3}
    if name == "fed-select":  # rounding is what it leaves out
        keys["wire"] = {"up-values": "int8"}
    return small.settings(folder, **keys)


# The rest differ from these in the server's step or the device's rule alone: see
# test_fed_optimizers.py and server/test_drift.py.
OTHERS = {"fedadam", "fedyogi", "fedadagrad", "fedprox", "mimelite"}


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in OTHERS])
def test_a_method_learns_resumes_and_leaves_a_model_that_loads(folder, name):
    whole = run_local(RunConfig.parse(config(folder, name)))
    rounds = small.lines(whole, "metrics.jsonl")[1:]
    assert all(r["clients"] >= 3 and set(r["dropped"]) <= {"error"} for r in rounds)
    assert all(math.isfinite(r["update-norm"]) and r["update-norm"] > 0 for r in rounds)
    sums = Totals.of(whole / "ledger.jsonl")
    times = 2 if STRATEGIES[name].beside else 1  # a second vector costs as much as the first
    if STRATEGIES[name].plan is dense or STRATEGIES[name].beside:
        assert sums.up_bytes == times * sums.dense_up_bytes
        assert sums.down_bytes == times * sums.dense_down_bytes
    else:
        assert sums.up_bytes < sums.dense_up_bytes
        all_down = ("sparse-diloco", "partial", "partial-floss", "heads")
        assert (sums.down_bytes < sums.dense_down_bytes) == (name not in all_down)
    assert len(small.loaded(whole / "adapter")["labels"]) == 3
    # B begins at zero: adapters with no B left do nothing.
    saved = load_file(whole / "adapter" / "adapter_model.safetensors")
    assert any(t.any() for n, t in saved.items() if "lora_B" in n)

    cut = run_local(RunConfig.parse(config(folder, name, rounds=2, run=f"cut-{name}")))
    assert len(small.lines(cut, "metrics.jsonl")) == 3
    run_local(RunConfig.parse(config(folder, name, run=f"cut-{name}")))
    assert small.same_bits(small.state(cut), small.state(whole))
    for file in ("metrics.jsonl", "ledger.jsonl", "adapter/adapter_model.safetensors"):
        assert (cut / file).read_bytes() == (whole / file).read_bytes(), file


def test_a_small_rank_costs_what_an_adapter_of_that_rank_costs(folder):
    """By hand: r of 4 ranks of eight adapters, and the head whole; 64 bytes of header."""
    run = run_local(RunConfig.parse(config(folder, "hetlora")))
    layout = Parts(RunConfig.parse(config(folder, "hetlora")), Place(folder / "home")).model.layout
    sizes = {f"rank-{r}": set() for r in (1, 2, 4)}
    for row in small.lines(run, "ledger.jsonl"):
        if row["direction"] in ("up", "down"):
            sizes[row["group"]].add(row["bytes"])
    assert sum(map(bool, sizes.values())) > 1
    for r in (1, 2, 4):
        K = expand(Derived("rank-slices", {"rank": r}), layout, Draw(0)).size
        assert sizes[f"rank-{r}"] <= {64 + 4 * K}


@pytest.mark.flower
@pytest.mark.timeout(300)
def test_hetlora_on_ray_is_hetlora_in_one_process(folder, tmp_path):
    """A worker's model changes its rank from job to job, and which jobs it gets is chance."""
    keys = config(folder, "hetlora", rounds=2, run="ray-hetlora")
    federation = tmp_path / "federation.toml"
    federation.write_text(
        "num-supernodes = 2\nclient-resources-num-cpus = 1\ninit-args-num-cpus = 2\n"
        "init-args-log-to-driver = false\n"
    )
    assert run_flower(ROOT, overrides=small.overrides(keys), federation=federation) == 0
    local = run_local(RunConfig.parse(keys | {"run.name": "local-hetlora"}))
    ray = local.parent / "ray-hetlora"
    for name in ("metrics.jsonl", "ledger.jsonl"):
        assert (ray / name).read_bytes() == (local / name).read_bytes()
