"""What is said of data and model before anything is started."""

import json
import logging
import sys
import traceback
from types import SimpleNamespace

import pytest

from fedllm_app import cli
from fedllm_app.config import RunConfig
from fedllm_app.config.inputs import input_problems
from fedllm_app.core.errors import DataError
from fedllm_app.flower.telling import in_one_sentence


@pytest.fixture
def keys(tiny, tmp_path):
    return tiny.keys() | {"run.home": str(tmp_path / "home"), "partition.clients": 6}


def problems(keys, **more):
    changed = {key.replace("__", ".").replace("_", "-"): value for key, value in more.items()}
    return input_problems(RunConfig.parse(keys | changed))


def test_good_data_and_a_good_model_are_looked_at_once(keys, tmp_path, monkeypatch):
    assert problems(keys) == []
    noted = sorted(p.name for p in (tmp_path / "home" / "cache" / "checked").iterdir())
    monkeypatch.setattr("fedllm_app.data.source.Source.load", lambda *a: pytest.fail("again"))
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lambda *a: pytest.fail("again"))
    assert problems(keys) == []
    assert problems(keys, client__lr=0.7) == []
    assert noted == sorted(p.name for p in (tmp_path / "home" / "cache" / "checked").iterdir())


def test_all_that_is_wrong_is_said_at_once(keys, tmp_path):
    found = problems(
        keys, data__text_column="body", data__label_column="topic", model__source="/none"
    )
    assert [line.split(" is ")[0] for line in found] == [
        "data.text-column", "data.label-column", "model.source",
    ]  # fmt: skip
    assert problems(keys, data__train="/none.csv", data__test="/nor.csv") == [
        "data.train='/none.csv': there is no such file or folder",
        "data.test='/nor.csv': there is no such file or folder",
    ]
    assert not list((tmp_path / "home" / "cache" / "checked").glob("*/found.json"))


def test_bad_rows_of_train_and_test_are_said_together(keys, tmp_path):
    rows = [{"text": "the sun", "label": x} for x in ("a", "b", None)]
    for name in ("train", "test"):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    own = {"data__train": str(tmp_path / "train.jsonl"), "data__labels": "a,b"}
    found = problems(keys, **own, partition__clients=2, round__clients=2)
    assert [line.partition(":")[2][:33] for line in found] == [
        " 1 of 3 rows cannot be used: 1 wi"
    ] * 2
    assert (
        problems(keys, **own, data__bad_rows="drop", partition__clients=2, round__clients=2) == []
    )
    (found,) = problems(keys, **own, data__bad_rows="drop")
    assert found.startswith("partition.clients is 6, but there are 2 training examples")
    (found,) = problems(keys, **own, data__bad_rows="drop", partition__name="natural")
    assert found.startswith("partition.name is 'natural' and data.user-column 'user'")


def test_the_server_of_devices_looks_at_its_test_examples(keys, tiny):
    devices = {"data__train": "node", "data__test": str(tiny.root / "text" / "test.jsonl")}
    assert problems(keys, **devices, data__labels="sky,water,stone") == []
    (found,) = problems(keys, **devices, data__labels="sky,water")
    assert "holds 'stone' in row 2; expected one of 2 labels (sky, water)" in found


def test_a_split_that_is_named_must_be_there(keys, tiny, tmp_path):
    (found,) = problems(keys, data__test_split="validaton")
    assert "data.test-split is 'validaton'" in found
    assert "there is no validaton.jsonl" in found
    (found,) = problems(keys, data__train=str(tiny.root / "text"), data__test_split="validaton")
    assert "the folder has no split 'validaton'" in found


def test_a_model_whose_files_do_not_load_is_said(keys, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{torn")
    (found,) = problems(keys, model__source=str(tmp_path / "model"))
    assert "holds no weights" in found
    (found,) = problems(keys, model__source=str(tmp_path / "model"), model__init="random")
    assert found.startswith(f"model.source is '{tmp_path / 'model'}'")
    assert "config" in found
    assert "\n" not in found


def test_a_model_beyond_this_machines_memory_is_refused_at_once(keys, tiny, monkeypatch):
    keys = keys | tiny.keys("pretraining") | {"model.train": "full", "client.steps": 1}
    own = {"model__tokenizer": "train", "model__device": "cpu"}
    P = 24 * (4 * 2048**2 + 3 * 2048 * 5440 + 2 * 2048) + 2048  # 1.3b without embeddings
    for total, said in ((28 * P, 0), (28 * P - 1, 1)):
        memory = SimpleNamespace(total=total)
        monkeypatch.setattr("fedllm_app.config.inputs.psutil.virtual_memory", lambda m=memory: m)
        found = problems(keys, model__source="scratch:1.3b", **own)
        assert len(found) == said, found
    assert found == [
        "model.source is 'scratch:1.3b': a simulation holds at least 33.7 GB, and this machine "
        "has 33.7 GB; expected a smaller model, or real devices (data.train = 'node')"
    ]


def test_the_command_says_it_and_starts_nothing(keys, monkeypatch, capfd):
    from typer.testing import CliRunner

    monkeypatch.setattr(
        "fedllm_app.deploy.launch.run_flower", lambda *a, **k: pytest.fail("started")
    )
    words = [f"{key}={value}" for key, value in keys.items() if value != ""]
    # A model of one's own is looked at in a process of its own, and the data with it.
    assert CliRunner().invoke(cli.app, ["run", *words, "data.label-column=topic"]).exit_code == 1
    said = capfd.readouterr().err
    assert said.startswith("ConfigError: data.label-column is 'topic', but data.train=")
    assert said.count("\n") == 1
    CliRunner().invoke(cli.app, ["run", *words, "data.label-column=topic", "--verbose"])
    assert "Traceback" in capfd.readouterr().err
    done = CliRunner().invoke(cli.app, ["report", "nothing", "--verbose"])
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("verbose", [False, True])
def test_flower_logs_an_error_of_ours_as_its_sentence(caplog, verbose, monkeypatch):
    logger = logging.getLogger("flwr")
    monkeypatch.setattr(logger, "filters", [])
    monkeypatch.setattr(logger, "propagate", True)
    in_one_sentence(verbose)
    try:
        try:
            raise DataError("no rows")
        except DataError as error:  # as Flower wraps what a ClientApp raises
            raise RuntimeError("an app failed") from error
    except RuntimeError:
        logger.error("%s raised an exception", "ClientApp", exc_info=sys.exc_info())
        logger.error(traceback.format_exc())
    assert ("Traceback" in caplog.text) == verbose
    assert verbose or caplog.messages == ["DataError: no rows"]
    logger.error("Traceback of somebody else")
    assert "somebody else" in caplog.text


def test_a_model_is_checked_without_weights(tiny, tmp_path):
    keys = tiny.keys() | {"run.home": str(tmp_path)}
    assert input_problems(RunConfig.parse(keys)) == []
    for key, value, words in (
        ("task.max-tokens", 33, "task.max-tokens is 33; expected at most 32"),
        ("lora.rank", 64, "lora.rank is 64; expected at most 16"),
        ("lora.targets", "q_proj", "lora.targets is 'q_proj'"),
        ("model.source", str(tiny.root / "dinov2"), "a model of type 'dinov2'"),
    ):
        (problem,) = input_problems(RunConfig.parse(keys | {key: value}))
        assert words in problem
