"""A run from its folder to its result: what is refused, before anything loads, and what goes on."""

import os
import shutil
import tomllib

import pytest
import tomli_w
from safetensors.torch import load_file, save_file

from fedllm_app.config import RunConfig
from fedllm_app.core.errors import CheckpointError, ConfigError, DataError, RunFailedError
from fedllm_app.play import run_local
from fedllm_app.run.checkpoint import newest_whole
from fedllm_app.run.metrics import read_lines

TWO_ROUNDS = {
    "run.rounds": 2, "partition.clients": 6, "round.clients": 6, "strategy.name": "dense",
    "network.down-mbps": 200.0, "network.up-mbps": 20.0,
}  # fmt: skip


def test_a_file_of_links_is_read_before_anything_loads(tiny, tmp_path):
    links = tmp_path / "links.csv"
    links.write_text("client,up-mbps\n0,fast\n")
    keys = tiny.keys() | TWO_ROUNDS | {"network.file": str(links), "model.source": "/nowhere"}
    with pytest.raises(ConfigError, match=r"links.csv' line 2: up-mbps is 'fast'"):
        run_local(RunConfig.parse(keys | {"run.name": "links-refused"}))


def test_simulated_seconds_are_those_of_the_ledgers_bytes_over_the_slowest_link(
    tiny, tmp_path, said
):
    links = tmp_path / "links.csv"
    links.write_text("client,up-mbps,latency-ms\n3,2,100\nnobody,1,\n")
    keys = tiny.keys() | TWO_ROUNDS | {"network.file": str(links), "run.name": "links"}
    folder = run_local(RunConfig.parse(keys))
    slowest = {}
    for line in read_lines(folder / "ledger.jsonl"):
        if line["client"] == "3":
            mbps = {"down": 200, "up": 2}[line["direction"]]
            seconds = 0.1 + 8 * line["bytes"] / (mbps * 1e6)
            slowest[line["round"]] = slowest.get(line["round"], 0) + seconds
    clock = [r["simulated-s"] for r in read_lines(folder / "metrics.jsonl")[1:]]
    assert clock == pytest.approx([slowest[1], slowest[1] + slowest[2]], rel=1e-12)
    assert "network.file names 1 clients that are not in the data: nobody" in said.text


def test_a_run_begun_before_a_key_existed_goes_on(tiny):
    keys = tiny.keys() | {"run.name": "older", "run.rounds": 1, "partition.clients": 3,
                          "round.clients": 2, "lora.rank": 2}  # fmt: skip
    folder = run_local(RunConfig.parse(keys))
    file = folder / "config.toml"
    older = tomllib.loads(file.read_text())
    del older["network"], older["strategy"]["mean"], older["strategy"]["error-feedback"]
    file.write_text(tomli_w.dumps(older))
    run_local(RunConfig.parse(keys | {"run.rounds": 2}))
    assert read_lines(folder / "metrics.jsonl")[-1]["round"] == 2
    # What it went by then is what is the default now, and nothing else.
    file.write_text(tomli_w.dumps(older))
    with pytest.raises(CheckpointError, match=r"strategy\.mean was 'cohort' and is 'senders'"):
        run_local(RunConfig.parse(keys | {"run.rounds": 2, "strategy.mean": "senders"}))


def test_a_mask_that_shrinks_over_the_run_goes_on_as_it_began(tiny):
    keys = tiny.keys() | {
        "run.name": "longer", "run.rounds": 3, "partition.clients": 3, "round.clients": 2,
        "lora.rank": 2, "strategy.name": "adapter-lth", "strategy.density": 0.5,
    }  # fmt: skip
    folder = run_local(RunConfig.parse(keys))
    decay = tomllib.loads((folder / "config.toml").read_text())["strategy"]["decay"]
    for rounds in (4, 5):
        run_local(RunConfig.parse(keys | {"run.rounds": rounds}))
        now = tomllib.loads((folder / "config.toml").read_text())
        assert (now["strategy"]["decay"], now["run"]["rounds"]) == (decay, rounds)
    with pytest.raises(CheckpointError, match=r"strategy\.decay was"):
        run_local(RunConfig.parse(keys | {"strategy.decay": 0.5}))


def test_a_round_in_one_process_drops_nobody_for_being_slow(tiny):
    keys = tiny.keys() | {
        "run.name": "slow", "run.rounds": 1, "partition.clients": 6, "round.clients": 6,
        "strategy.name": "floss-tiers", "strategy.tier-densities": "0.1,0.5,1",
        "round.timeout-s": 0.001,
    }  # fmt: skip
    last = read_lines(run_local(RunConfig.parse(keys)) / "metrics.jsonl")[-1]
    assert (last["clients"], last["dropped"]) == (6, {})


def test_a_run_that_never_began_does_not_hold_its_name(tiny):
    keys = tiny.keys() | TWO_ROUNDS | {"run.name": "mistyped"}
    with pytest.raises(ConfigError, match=r"no config\.json there"):
        run_local(RunConfig.parse(keys | {"model.source": "/models/MinLM"}))
    folder = run_local(RunConfig.parse(keys))
    assert read_lines(folder / "metrics.jsonl")[-1]["round"] == 2
    with pytest.raises(CheckpointError, match=r"another configuration: lora\.rank"):
        run_local(RunConfig.parse(keys | {"lora.rank": 3}))


def test_a_run_goes_on_with_what_it_began_on_and_with_nothing_else(tiny, tmp_path, said):
    shutil.copytree(tiny.root / "bert", tmp_path / "bert")
    shutil.copytree(tiny.root / "text", tmp_path / "text")
    train, test = (tmp_path / "text" / f"{split}.jsonl" for split in ("train", "test"))
    keys = tiny.keys() | TWO_ROUNDS | {
        "run.home": str(tmp_path / "home"), "run.name": "same", "data.train": str(train),
        "model.source": str(tmp_path / "bert"), "partition.name": "natural",
    }  # fmt: skip
    folder = run_local(RunConfig.parse(keys))

    def refused(rounds=3):
        with pytest.raises(CheckpointError, match="'same' cannot go on after round 2") as error:
            run_local(RunConfig.parse(keys | {"run.rounds": rounds}))
        assert len(read_lines(folder / "metrics.jsonl")) == 3
        return str(error.value)

    # Prepared anew from the same rows, the data are the same.
    rows = train.read_text()
    os.utime(train, (1, 1))
    said.clear()
    run_local(RunConfig.parse(keys))
    assert f"run same goes on after round 2, from {folder / 'checkpoints'}" in said.text

    train.write_text(rows.replace("sun", "moon", 1))
    assert "the training rows (data.train) changed" in refused()
    lines = rows.splitlines(keepends=True)
    train.write_text("".join(lines).replace("user-0", "user-9", 1))
    why = refused()
    assert "who owns which row" in why and "training rows" not in why
    train.write_text(rows)
    measured = test.read_text()
    test.write_text("".join(reversed(measured.splitlines(keepends=True)[:-1])))
    assert "the rows that are evaluated (data.test" in refused()
    test.write_text(measured)
    weights = tmp_path / "bert" / "model.safetensors"
    tensors = load_file(weights)
    tensors["embeddings.word_embeddings.weight"][3, 3] += 1e-3
    save_file(tensors, weights, {"format": "pt"})
    why = refused()
    assert "the frozen weights (model.source) changed" in why and str(tmp_path / "bert") in why


def test_a_run_that_was_refused_leaves_no_folder(tiny, tmp_path):
    keys = tiny.keys() | TWO_ROUNDS | {"run.home": str(tmp_path), "run.name": "refused"}
    with pytest.raises(DataError):
        run_local(RunConfig.parse(keys | {"data.label-column": "colour"}))
    assert not (tmp_path / "runs" / "refused").exists()


def test_a_run_that_gives_up_is_a_failure_and_says_so_in_its_folder(tiny, tmp_path):
    keys = tiny.keys() | TWO_ROUNDS | {"run.home": str(tmp_path), "run.name": "far"}
    # So large a step that no device's values stay finite.
    keys |= {"client.lr": 1e30, "run.rounds": 9, "round.give-up-after": 2}
    with pytest.raises(RunFailedError, match=r"rounds 1 to 2 took no step .* 12 malformed"):
        run_local(RunConfig.parse(keys))
    folder = tmp_path / "runs" / "far"
    assert (folder / "report.html").exists()
    assert "given up" in newest_whole(folder / "checkpoints").state.finished


def test_a_page_that_cannot_be_drawn_fails_no_run(tiny, monkeypatch, said):
    def broken(folder):
        raise IndexError("list index out of range")

    monkeypatch.setattr("fedllm_app.ending.write_report", broken)
    folder = run_local(RunConfig.parse(tiny.keys() | TWO_ROUNDS | {"run.name": "pageless"}))
    assert (folder / "adapter").is_dir()
    assert "no report.html: list index" in said.text
