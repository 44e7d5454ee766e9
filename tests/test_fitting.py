"""Jobs that do not fit into the memory of a class of devices are refused, with what would fit."""

import numpy as np
import pytest
from typer.testing import CliRunner

from fedllm_app.cli import app
from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError
from fedllm_app.core.units import format_bytes
from fedllm_app.devices.profile import UNITS
from fedllm_app.fitting import Fitting
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.play import run_local


def profile(name, memory, flops=1e6):
    """Return a profile."""
    figures = {key: (1.0, unit) for key, (unit, _) in UNITS.items()}
    figures |= {"memory": (float(memory), "B"), "flops": (flops, "FLOP/s")}
    return f'name = "{name}"\n' + "".join(
        f'[{key}]\nvalue = {value}\nunit = "{unit}"\nkind = "assumed"\nsource = "a test"\n'
        for key, (value, unit) in figures.items()
    )


@pytest.fixture
def keys(tiny, tmp_path):
    """Return the keys of a run, by the memory of its slow and of its fast class."""

    def of(slow, fast=1e12, **more):
        changed = {key.replace("__", ".").replace("_", "-"): value for key, value in more.items()}
        (tmp_path / "slow.toml").write_text(profile("slow", slow))
        (tmp_path / "fast.toml").write_text(profile("fast", fast, flops=1e7))
        files = ",".join(str(tmp_path / f"{name}.toml") for name in ("slow", "fast"))
        return tiny.keys("next-token") | {
            "run.home": str(tmp_path / "home"), "run.name": "fits", "run.rounds": 1,
            "partition.name": "iid", "partition.clients": 6, "round.clients": 2,
            "round.evaluate-every": 0, "client.steps": 1, "client.batch": 16, "lora.rank": 4,
            "strategy.name": "dense", "devices.fleet": "slow=0.5,fast=0.5", "devices.files": files,
            **changed,
        }  # fmt: skip

    return of


def bytes_of(keys, **more):
    """Return the bytes of a job under these keys, some of them changed."""
    c = RunConfig.parse(keys)
    changed = RunConfig.parse(keys | {k.replace("__", ".").replace("_", "-"): v
                                      for k, v in more.items()}).resolved()  # fmt: skip
    return Fitting(Parts(c, Place.of(c))).job(changed).total


def test_every_class_without_the_memory_is_named_with_what_would_fit(keys, tmp_path):
    whole = bytes_of(keys(1))
    half = bytes_of(keys(1), client__micro_batch=8)
    quarter = bytes_of(keys(1), client__micro_batch=4)
    assert quarter < half < whole
    asked = keys((quarter + half) // 2, fast=(half + whole) // 2)
    with pytest.raises(ConfigError) as error:
        run_local(RunConfig.parse(asked))
    said = str(error.value)
    assert said.startswith("devices.fleet has classes without the memory for a job: slow needs ")
    assert "; fast needs " in said and "activations" in said
    assert "It fits with client.micro-batch = 4: " in said
    assert not (tmp_path / "home" / "runs" / "fits").exists()  # nothing was begun
    run_local(RunConfig.parse(asked | {"client.micro-batch": 4}))


def test_where_nothing_fits_all_that_was_tried_is_told(keys):
    with pytest.raises(ConfigError) as error:
        run_local(RunConfig.parse(keys(1, lora__rank=2, client__batch=2)))
    said = str(error.value)
    assert "fast needs" not in said
    assert "None of these fits either: client.micro-batch = 1; model.checkpointing = true; " in said
    assert "lora.rank = 1" in said and "Expected a smaller model" in said


def test_a_class_is_held_to_the_job_of_its_own_tier(keys):
    tiers = {"strategy__name": "hetlora", "strategy__tier_ranks": "1,8", "lora__rank": 8}
    low = bytes_of(keys(1), lora__rank=1)
    high = bytes_of(keys(1), lora__rank=8)
    # A device of rank 1 has built the whole adapters, and keeps the values they began with.
    run_local(RunConfig.parse(keys((low + high) // 2, **tiers)))
    with pytest.raises(ConfigError, match=r"without the memory for a job: fast needs"):
        run_local(RunConfig.parse(keys(1e12, fast=(low + high) // 2, **tiers)))


def test_the_command_checks_classes_against_a_job(keys, tmp_path):
    need = bytes_of(keys(1))
    asked = keys(need - 1, fast=need)
    words = [f"{key}={value}" for key, value in asked.items() if not key.startswith("devices")]
    files = [str(tmp_path / f"{name}.toml") for name in ("slow", "fast")]
    result = CliRunner().invoke(
        app, ["devices", "check", *files, *(part for w in words for part in ("--job", w))]
    )
    assert result.exit_code == 0, result.output
    said = next(line for line in result.output.splitlines() if line.startswith("A job holds"))
    assert f"{format_bytes(need)} in memory (weights " in said
    assert said.endswith(f"; too much for slow ({format_bytes(need - 1)}).")


def test_the_longest_rows_are_counted(keys):
    c = RunConfig.parse(keys(1))
    fitting = Fitting(Parts(c, Place.of(c)))
    lengths = fitting.parts.data.train.numbers("input_ids")
    batch = fitting.batch(3, 16)
    assert batch["input_ids"].shape == (3, lengths.max())
    assert fitting.batch(100, 2)["input_ids"].shape == (100, 2)
    assert np.array_equal(np.sort(lengths)[::-1][:3], batch["attention_mask"].sum(1))
