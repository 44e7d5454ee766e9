"""`fedllm plan` as it is typed: tables, JSON, the recipe, and refusals before anything loads."""

import json

import pytest
from typer.testing import CliRunner

from fedllm_app.cli import app
from fedllm_app.config import RunConfig, read_recipe
from fedllm_app.play import run_local
from fedllm_app.study.command import network_for
from fedllm_app.study.costs import measured


def call(*words):
    return CliRunner(env={"COLUMNS": "300"}).invoke(app, ["plan", *map(str, words)])


@pytest.fixture
def keys(tiny):
    flat = tiny.keys() | {
        "run.rounds": 6, "partition.clients": 6, "round.clients": 3, "client.batch": 4,
        "client.lr": 0.1, "server.lr": 0.05, "lora.targets": "all-linear", "data.holdout": 0.25,
    }  # fmt: skip
    return [f"{key}={json.dumps(value)}" for key, value in flat.items()]


SMALL = ("--vary", "lora.rank=2,4", "--vary", "strategy.d-down=1", "--vary", "wire.up-values=fp32")


def test_it_prints_what_fits_and_writes_all_of_it(keys, tmp_path):
    file = tmp_path / "plan.json"
    done = call(
        *keys, "--max-up-mb", 0.1, *SMALL, "--up-mbps", 20, "--down-mbps", 200, "--json", file
    )
    assert done.exit_code == 0, done.output + done.stderr
    assert "configurations fit into 100 kB (up) in all. Order: " in done.output
    assert "All have d-down=1 up-values=fp32 clients=3" in done.output
    assert "The base, once for each client: " in done.output
    rows = json.loads(file.read_text())["candidates"]
    assert all(row["up-bytes"] <= 100_000 for row in rows)
    assert {row["settings"]["lora.rank"] for row in rows} == {2, 4}
    assert any(row["rounds"] < row["of"] for row in rows)


def test_seconds_are_reckoned_with_the_links_and_speeds_of_the_run_config():
    slow = RunConfig.parse({"compute.step-s": 2.0})
    assert network_for(slow, 0, 0, 0, None).participant_seconds("a", 10**6, 10**6, 3) == 6
    both = network_for(slow, 8, 8, 0, None)  # a byte a microsecond
    assert both.participant_seconds("a", 10**6, 10**6, 3) == 8
    assert network_for(RunConfig.parse({}), 0, 0, 0, None) is None


def test_the_base_counts_unless_it_is_left_out(keys):
    refused = call(*keys, "--max-mb", 0.1, *SMALL)
    assert refused.exit_code == 1
    assert "none of 16 configurations fits: the budget holds at most" in refused.stderr
    done = call(*keys, "--max-mb", 0.1, "--no-base", *SMALL)
    assert "base (not counted)" in done.output, done.stderr


def test_the_pilot_writes_a_recipe_that_runs(keys, tmp_path, tiny):
    out, file = tmp_path / "best.toml", tmp_path / "plan.json"
    limit = 0.6
    done = call(
        *keys, *SMALL, "--max-up-mb", limit, "--pilot", 0.5, "--pilot-rounds", 1, "--pilot-most", 3,
        "--vary", "client.lr=0.1,0.2", "--out", out, "--json", file,
    )  # fmt: skip
    assert done.exit_code == 0, done.output + done.stderr
    assert f"Run it: fedllm run {out}" in done.output
    recipe = RunConfig.parse(read_recipe(out))
    assert recipe.data.evaluate_on == "test"
    assert recipe.run.name == ""
    pilots = json.loads(file.read_text())["pilot"]
    best = pilots[0]
    assert {key: recipe.flat()[key] for key in best["settings"]} | {
        "run.rounds": best["rounds"]
    } == best["settings"] | {"run.rounds": best["rounds"]}
    assert best["accuracy"] == max(p["accuracy"] for p in pilots)
    spent = sum(p["spent"]["up"] for p in pilots)
    assert 0 < spent <= 0.5e6 * limit
    # The run itself fits into what is left.
    run = recipe.run.model_copy(update={"name": "planned"})
    paid = measured(run_local(recipe.model_copy(update={"run": run})))
    assert paid.up_bytes.sum() + spent <= 1e6 * limit
    assert paid.up_bytes.sum() == pytest.approx(best["up-bytes"], rel=0.02)


REFUSED = {
    "no budget": ([], "there is no budget; expected one or more of --max-up-mb"),
    "seconds without links": (["--max-seconds", 9], "--max-seconds is 9 and no link is known"),
    "one speed": (["--max-up-mb", 1, "--up-mbps", 9], "expected both above 0"),
    "latency alone": (["--max-up-mb", 1, "--latency-ms", 9], "--latency-ms is 9 and no link"),
    "no such file": (["--max-up-mb", 1, "--links", "none.csv"], "cannot be read"),
    "a share too large": (["--max-up-mb", 1, "--pilot", 2], "expected a share in (0, 1)"),
    "out alone": (["--max-up-mb", 1, "--out", "x.toml"], "--out is 'x.toml' without --pilot"),
    "rounds alone": (["--max-up-mb", 1, "--pilot-rounds", 3], "--pilot-rounds is '3' without"),
    "one to choose": (["--max-up-mb", 1, "--pilot", 0.2, "--pilot-most", 1], "expected 2 or more"),
    "no recipe": (["--max-up-mb", 1, "--pilot", 0.2, "--out", "x"], "expected a new .toml file"),
    "no folder": (["--max-up-mb", 1, "--json", "/none/x.json"], "in a folder that exists"),
    "devices": (["data.train=node", "data.labels=a,b", "model.source=x", "--max-up-mb", 1,
                 "--pilot", 0.2], "--pilot with data.train = 'node'"),
    "a wrong key": (["lora.rnk=3", "--max-up-mb", 1], "lora.rnk is 3: unknown key"),
    "a wrong value": (["--max-up-mb", 1, "--vary", "strategy.d-up=2"], "strategy.d-up is 2.0; exp"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_refused_with_what_is_legal(case):
    words, message = REFUSED[case]
    done = call(*words)
    assert done.exit_code == 1, done.output
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_clients_without_a_link_are_named(keys, tmp_path):
    file = tmp_path / "links.csv"
    file.write_text("client,down-mbps,up-mbps\n0,9,9\n")
    done = call(*keys, "--max-seconds", 99, "--links", file)
    assert "--links has no speed for 5 of 6 clients, e.g. ['1', '2', '3']" in " ".join(
        done.stderr.split()
    )
