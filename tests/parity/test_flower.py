"""A real `flwr run` on Ray: its folder is whole, its bytes are those of one process."""

import tomllib

import pytest
import small
import torch

pytestmark = [pytest.mark.flower, pytest.mark.timeout(600)]
FILES = ("config.toml", "metrics.jsonl", "ledger.jsonl", "timing.jsonl", "report.html")


def test_the_run_folder_is_whole(folder, flower_run):
    run = flower_run
    assert all((run / name).stat().st_size for name in FILES)
    assert list((run / "tensorboard").iterdir())
    said = tomllib.loads((run / "config.toml").read_text())
    assert said["strategy"].items() >= {"name": "floss", "mean": "cohort", **small.FLOSS}.items()
    assert said["server"]["optimizer"] == "adam"
    begin, *rounds = small.lines(run, "timing.jsonl")
    assert begin["versions"]["flwr"]
    assert [r["round"] for r in rounds] == [1, 2, 3]
    assert all(0 < r["client-train-s"] and r["parts"]["wait"] <= r["seconds"] for r in rounds)


def test_bytes_do_not_depend_on_the_number_of_workers(local_run, flower_run):
    for name in ("metrics.jsonl", "ledger.jsonl", "adapter/adapter_model.safetensors"):
        assert (flower_run / name).read_bytes() == (local_run / name).read_bytes()
    assert small.same_bits(small.state(local_run), small.state(flower_run))


def test_a_client_that_fails_is_dropped_and_the_round_goes_on(flower_run):
    _, *rounds = small.lines(flower_run, "metrics.jsonl")
    assert [(r["clients"], r["dropped"]) for r in rounds] == [
        (3, {"error": 1}),
        (4, {}),
        (3, {"error": 1}),
    ]
    sent = [r for r in small.lines(flower_run, "ledger.jsonl") if r["direction"] == "up"]
    assert small.BROKEN not in {r["client"] for r in sent}
    assert len(sent) == 10


def test_what_travels_is_sparse(flower_run):
    sums = {"up": [0, 0], "down": [0, 0]}
    for row in small.lines(flower_run, "ledger.jsonl"):
        if row["direction"] in sums:
            sums[row["direction"]][0] += row["bytes"]
            sums[row["direction"]][1] += row["dense-bytes"]
    # A sixteenth and a quarter of 563 values, their positions, and a header that weighs here.
    assert sums["up"][0] * 7 < sums["up"][1]
    assert sums["down"][0] * 3 < sums["down"][1]


def test_the_adapter_loads_as_its_readme_says_and_scores_the_same(folder, flower_run):
    names = small.loaded(flower_run / "adapter")
    model, tokenizer = names["model"], names["tokenizer"]
    rows = small.rows(folder / "test.jsonl")
    inputs = tokenizer([r["text"] for r in rows], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(inputs["input_ids"], inputs["attention_mask"]).logits
    labels = torch.tensor([names["labels"].index(r["label"]) for r in rows])
    measured = small.lines(flower_run, "metrics.jsonl")[-1]["evaluation"]
    assert (logits.argmax(1) == labels).float().mean().item() == pytest.approx(measured["accuracy"])
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert loss == pytest.approx(measured["loss"], rel=1e-5)
