"""What the guide reads from folders: whole runs alone, and it says what it leaves out."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from fedllm_app.cli import app
from fedllm_app.config import RunConfig
from fedllm_app.core.errors import DataError
from fedllm_app.play import run_local
from fedllm_app.study.finished_runs import read_observed
from fedllm_app.study.grouped import grouped


def made(home, name, losses, rounds=4, population=None, lines=None, **more):
    """Write the folder of a run of 4 rounds that asked for `rounds`."""
    folder = home / "runs" / name
    folder.mkdir(parents=True)
    own = {"devices.fleet": "phone=1", "run.rounds": rounds, "partition.clients": 20}
    own |= {key.replace("__", ".").replace("_", "-"): value for key, value in more.items()}
    (folder / "config.toml").write_text(RunConfig.parse(own).resolved().toml())
    records = [{"round": 0, "headline": "loss", "evaluation": {"loss": 5.0}}]
    if population:
        records[0]["population"] = population
    for t in range(1, 1 + (4 if lines is None else lines)):
        spent = {"up-bytes": 10 * t, "down-bytes": 10 * t, "tokens": t, "flops": 1e9 * t}
        found = {"evaluation": {"loss": losses[t]}} if t in losses else {}
        records.append({"round": t} | spent | found)
    for file, every in (("metrics", records), ("devices", []),
                        ("ledger", [{"round": 1, "dense-bytes": 1064}])):  # fmt: skip
        text = "".join(json.dumps(record) + "\n" for record in every)
        (folder / f"{file}.jsonl").write_text(text)
    return folder


def read(home):
    said = []
    return {run.name: run for run in read_observed(home, said.append)}, said


def test_a_run_that_was_killed_is_left_out_and_told_of(tmp_path):
    made(tmp_path, "whole", {2: 4.5, 4: 4.0})
    made(tmp_path, "killed", {4: 4.0}, rounds=100)
    made(tmp_path, "begun", {}, rounds=100, lines=0)
    found, said = read(tmp_path)
    assert list(found) == ["whole"]
    assert said == ["Left out: 2 runs not played to the end (begun, killed)."]


def test_a_run_that_ended_by_itself_is_whole(tmp_path):
    folder = made(tmp_path, "target", {4: 4.0}, rounds=100)
    (folder / "adapter").mkdir()
    (folder / "adapter" / "fedllm.json").write_text('{"round": 4}')
    (run,) = read(tmp_path)[0].values()
    assert (run.rounds, run.asked) == (4, 100)
    # The result of a shorter run does not make a longer one whole.
    (folder / "adapter" / "fedllm.json").write_text('{"round": 2}')
    with pytest.raises(DataError, match="not played to the end"):
        read(tmp_path)


def test_a_run_that_diverged_does_not_end_the_command(tmp_path):
    made(tmp_path, "good", {2: 4.5, 4: 4.0})
    made(tmp_path, "bad", {2: 4.5, 4: None}, rounds=100, client__lr=9.0)
    found, _ = read(tmp_path)
    assert found["bad"].diverged and not found["good"].diverged
    told = CliRunner().invoke(app, ["guide", str(tmp_path), "--fleet", "phone=1"])
    assert told.exit_code == 0, told.output
    assert "of which a seed diverged" in told.output


def test_runs_without_devices_and_unreadable_ones_are_counted(tmp_path):
    made(tmp_path, "good", {4: 4.0})
    (made(tmp_path, "plain", {4: 4.0}) / "devices.jsonl").unlink()
    (made(tmp_path, "odd", {4: 4.0}) / "config.toml").write_text("[run]\nround = 3\n")
    _, said = read(tmp_path)
    assert "1 run that cannot be read" in said[0] and "(odd)" in said[0]
    assert said[1] == "Left out: 1 run without simulated devices (devices.fleet) (plain)."


def test_the_number_of_clients_is_the_one_that_the_run_counted(tmp_path):
    users = {"partition__name": "natural", "data__user_column": "u", "partition__clients": 8}
    made(tmp_path, "natural", {4: 4.0}, population=500, round__clients=50, **users)
    made(tmp_path, "share", {4: 4.0}, population=500, round__clients=0.02, **users)
    made(tmp_path, "earlier", {4: 4.0}, round__clients=50, **users)
    found, said = read(tmp_path)
    sizes = {name: (run.clients, run.population) for name, run in found.items()}
    assert sizes == {"natural": (50, 500), "share": (10, 500)}
    assert "'natural' and clients nobody counted (earlier)" in said[0]


def test_a_played_run_records_how_many_users_there_are(tiny, tmp_path):
    keys = tiny.keys() | {
        "run.home": str(tmp_path), "run.name": "users", "run.rounds": 1, "lora.rank": 2,
        "partition.name": "natural", "partition.clients": 2, "round.clients": 3,
        "devices.fleet": "phone=1",
    }  # fmt: skip
    run_local(RunConfig.parse(keys))
    (run,) = read_observed(tmp_path)
    assert (run.clients, run.population) == (3, 6)


def test_the_folder_of_a_sweep_leads_to_its_runs(tmp_path):
    made(tmp_path, "sweep-a", {4: 4.0}, client__lr=0.1)
    made(tmp_path, "sweep-b", {4: 3.9}, client__lr=0.2)
    made(tmp_path, "no-part-of-it", {4: 1.0}, client__lr=0.3)
    out = tmp_path / "sweeps" / "mine"
    out.mkdir(parents=True)
    names = ["sweep-a", "sweep-b", "sweep-gone", "sweep-bad"]
    columns = {"run": names, "client.lr": [0.1, 0.2, 0.3, 9.0], "failed": [*[None] * 3, "why"]}
    pq.write_table(pa.table(columns), out / "table.parquet")
    said = []
    found = read_observed(out, said.append)
    assert [run.name for run in found] == ["sweep-a", "sweep-b"]
    assert [setting.knobs for setting in grouped(found)] == [{"client.lr": v} for v in (0.1, 0.2)]
    assert "1 run of the sweep" in said[0] and "(sweep-gone)" in said[0]


def test_a_damaged_table_says_how_to_get_a_whole_one(tmp_path):
    (tmp_path / "table.parquet").write_text("no")
    with pytest.raises(DataError, match=r"table\.parquet cannot be read .*play the sweep again"):
        read_observed(tmp_path)


def test_what_a_sweep_did_not_vary_is_no_knob(tmp_path):
    """With adapter-lth, strategy.decay becomes what run.rounds asks for."""
    lth = {"strategy__name": "adapter-lth", "strategy__density": 0.25}
    made(tmp_path, "a", {4: 4.0}, rounds=4, strategy__decay=0.5, **lth)
    made(tmp_path, "b", {3: 4.1}, rounds=3, strategy__decay=0.4, lines=3, **lth)
    out = tmp_path / "sweeps" / "mine"
    out.mkdir(parents=True)
    pq.write_table(pa.table({"run": ["a", "b"], "run.rounds": [4, 3]}), out / "table.parquet")
    assert [s.knobs for s in grouped(read_observed(out))] == [{"run.rounds": 4}, {"run.rounds": 3}]
