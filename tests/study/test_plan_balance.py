"""A plan follows devices.balance: seconds, joules and bytes are those of the run."""

import pytest

from fedllm_app.config import RunConfig
from fedllm_app.devices.profile import UNITS
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.play import run_local
from fedllm_app.run.metrics import read_lines
from fedllm_app.study.command import network_for, predictor


def profile(name, flops, up):
    """Return a profile."""
    figures = {key: (1.0, unit) for key, (unit, _) in UNITS.items()}
    figures |= {"flops": (flops, "FLOP/s"), "memory": (1e12, "B"), "down": (1.0, "Mbps")}
    figures["up"] = (up, "Mbps")
    return f'name = "{name}"\n' + "".join(
        f'[{key}]\nvalue = {value}\nunit = "{unit}"\nkind = "assumed"\nsource = "a test"\n'
        for key, (value, unit) in figures.items()
    )


@pytest.mark.parametrize(
    ("method", "least", "rel"),
    [({"strategy.name": "dense"}, 1.0, 1e-3), ({"strategy.name": "floss"}, 0.125, 0.1)],
)
def test_a_balanced_run_costs_what_its_plan_says(tiny, tmp_path, method, least, rel):
    for name, flops, up in (("snail", 1e6, 0.01), ("hare", 4e6, 1.0)):
        (tmp_path / f"{name}.toml").write_text(profile(name, flops, up))
    files = ",".join(str(tmp_path / f"{name}.toml") for name in ("snail", "hare"))
    c = RunConfig.parse(tiny.keys("next-token") | method | {
        "run.home": str(tmp_path), "run.name": "balanced", "run.rounds": 2,
        "partition.name": "iid", "partition.clients": 7, "round.clients": 5,
        "round.evaluate-every": 0, "client.steps": 3, "client.batch": 2, "lora.rank": 4,
        "devices.fleet": "snail=0.4,hare=0.6", "devices.files": files, "devices.balance": True,
        "devices.balance-density": least,
    })  # fmt: skip
    folder = run_local(c)
    costs = predictor(c, network_for(c, 0.0, 0.0, 0.0, None)).costs(c)
    last = [r for r in read_lines(folder / "metrics.jsonl") if "energy-j" in r][-1]
    assert costs.seconds.sum() == pytest.approx(last["simulated-s"], rel=rel)
    assert costs.energy_j.sum() == pytest.approx(last["energy-j"], rel=rel)
    assert costs.up_bytes.sum() == pytest.approx(last["up-bytes"], rel=rel)
    groups = {line["group"] for line in read_lines(folder / "ledger.jsonl")}
    assert len({name.split("/")[1] for name in groups if "/" in name}) > 1  # unequal steps
    assert any(name.count("/") == 2 for name in groups) == (least < 1)


@pytest.mark.parametrize("own", [{}, {"client.steps": 3}], ids=["epochs", "steps"])
def test_a_short_last_batch_costs_its_rows_in_the_run_and_in_its_plan(tiny, tmp_path, own):
    """Most clients have fewer rows than a batch."""
    c = RunConfig.parse(tiny.keys("next-token") | own | {
        "run.home": str(tmp_path), "run.name": "short", "run.rounds": 2, "strategy.name": "dense",
        "partition.name": "iid", "partition.clients": 7, "round.clients": 5, "client.batch": 16,
        "round.evaluate-every": 0, "lora.rank": 4, "devices.fleet": "phone=0.5,pc=0.5",
    })  # fmt: skip
    folder = run_local(c)
    parts = Parts(c.resolved(), Place.of(c))
    counts, asked = parts.counts(), []
    for line in read_lines(folder / "ledger.jsonl"):
        asked += [line["client"]] if line["direction"] == "down" else []
    assert max(counts.values()) < 16 and len(asked) == 10
    rows = sum(counts[client] for client in asked) * (own.get("client.steps") or 1)
    last = [r for r in read_lines(folder / "metrics.jsonl") if "energy-j" in r][-1]
    assert last["flops"] == pytest.approx(rows * parts.row_cost.flops())
    costs = predictor(c, network_for(c, 0.0, 0.0, 0.0, None)).costs(c)
    assert costs.seconds.sum() == pytest.approx(last["simulated-s"], rel=1e-6)
    assert costs.energy_j.sum() == pytest.approx(last["energy-j"], rel=1e-6)
