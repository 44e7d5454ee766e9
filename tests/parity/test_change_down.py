"""Downloads as a change on a grid, with a memory of what clients hold, on a real small model."""

import numpy as np
import pytest
import small

from fedllm_app.config import RunConfig
from fedllm_app.core.versions import CODES
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.play import run_local
from fedllm_app.run.checkpoint import latest_checkpoint, load_state
from fedllm_app.server.methods import STRATEGIES

ROUNDS = 4
GRID = {"down-values": "grid", "grid-bits": 2.0}
OWN = {
    "floss": {"d-down": 1.0}, "hetlora": {"tier-ranks": "1,2,4"},
    "streaming-diloco": {"fragments": 2},
}  # fmt: skip
# Those that send all coordinates down, to some clients at least.
WHOLE = (
    "dense", "fedavg", "fedadam", "partial", "partial-floss", "floss", "floss-tiers", "photon",
    "heads",
    "diloco", "sparse-diloco",
    "streaming-diloco",
)  # fmt: skip
# The first send what fedadam does; the others a second vector, which is no change from a start.
LEFT_OUT = ("fedyogi", "fedadagrad", "fedprox", "scaffold", "mimelite")
RATES = {"fedavg": 1.0, "sparse-adapter": 0.01, "fed-select": 0.01, "adapter-lth": 0.01}


def config(folder, name, run, history=0, rounds=ROUNDS, **sections):
    strategy = {"name": name, "down": "change", "down-history": history} | OWN.get(name, {})
    sections = {
        "run": {"name": run, "rounds": rounds, "checkpoint-every": 2},
        "strategy": strategy, "wire": GRID, "server": {"lr": RATES.get(name, small.SERVER_LR)},
    } | sections  # fmt: skip
    return RunConfig.parse(small.settings(folder, **sections))


def down(run):
    rows = small.lines(run, "ledger.jsonl")
    return [row["bytes"] for row in rows if row["direction"] == "down"]


def stepped(run):
    """Return what the server stepped: all but its memory of downloads."""
    return {n: t for n, t in small.state(run).items() if not n.startswith("downloads.")}


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in LEFT_OUT])
def test_every_method_sends_the_change_and_what_is_held_saves_bytes_alone(folder, name):
    whole = run_local(config(folder, name, f"change-{name}"))
    rounds = small.lines(whole, "metrics.jsonl")[1:]
    assert all(r["clients"] >= 3 and set(r["dropped"]) <= {"error"} for r in rounds)
    assert all(r["update-norm"] > 0 for r in rounds)
    since = run_local(config(folder, name, f"since-{name}", history=3))
    assert small.same_bits(stepped(since), stepped(whole))
    for mine, theirs in zip(small.lines(since, "metrics.jsonl")[1:], rounds, strict=True):
        assert mine["evaluation"] == theirs["evaluation"]
        assert mine["update-norm"] == theirs["update-norm"]
    if name in WHOLE:
        assert sum(down(since)) < sum(down(whole))
    else:
        assert down(since) == down(whole)


@pytest.mark.parametrize("name", ["sparse-adapter", "fed-select", "adapter-lth"])
def test_a_mask_by_change_holds_b_at_a_small_rate(folder, name, caplog):
    """By values it holds none: one step of Adam at 0.01 leaves B below every large entry of A."""
    caplog.set_level("WARNING", "fedllm")
    found = {}
    for way in ("values", "change"):
        strategy = {"name": name, "down": way, "density": 0.25}
        run = run_local(config(folder, name, f"trap-{way}-{name}", strategy=strategy, wire={}))
        parts = Parts(config(folder, name, f"trap-{way}-{name}"), Place(folder / "home"))
        _, tensors = load_state(latest_checkpoint(run / "checkpoints"))
        moved = tensors["params"].numpy() != parts.initial
        names = parts.model.layout
        spans = zip(names.names, names.offsets, names.sizes, strict=True)
        found[way] = [moved[a : a + n].mean() for tensor, a, n in spans if "lora_B" in tensor]
    assert np.mean(found["change"]) > 0.1


def test_a_killed_run_resumes_to_the_same_bits_and_bytes(folder):
    whole = run_local(config(folder, "floss", "held", history=3))
    run_local(config(folder, "floss", "held-cut", history=3, rounds=2))
    run = run_local(config(folder, "floss", "held-cut", history=3))
    assert small.same_bits(small.state(run), small.state(whole))
    for file in ("metrics.jsonl", "ledger.jsonl"):
        assert (run / file).read_bytes() == (whole / file).read_bytes()
    state, _ = load_state(latest_checkpoint(run / "checkpoints"))
    # Codes and step of the last three rounds, one group.
    assert sorted(state.downloads) == sorted(
        f"{t}.{x}.all" for t in (2, 3, 4) for x in (CODES, "step")
    )


def test_a_device_that_lost_what_it_held_costs_a_reply_and_is_sent_all_of_it_again(folder):
    run = run_local(config(folder, "floss", "lost", history=9, rounds=2))
    held = [path for path in (folder / "home").rglob("job-*.safetensors") if "lost" in str(path)]
    assert held
    for path in held:
        path.unlink()
    run_local(config(folder, "floss", "lost", history=9, rounds=8))
    later = [r for r in small.lines(run, "metrics.jsonl") if r["round"] > 2]
    assert later[0]["dropped"].get("forgotten", 0) > 0
    # By now every client of the first rounds has been asked once more.
    assert later[-1]["dropped"].get("forgotten", 0) == 0
    assert later[-1]["clients"] >= 3
