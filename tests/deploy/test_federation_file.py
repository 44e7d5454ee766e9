"""A run that computes on a GPU is refused where its federation gives clients none."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedllm_app import cli
from fedllm_app.config import RunConfig
from fedllm_app.deploy.federation import federation_problems

OWN = Path(__file__).parents[2] / "pyproject-federation.toml"
PLACES = {"model.source": "org/model", "data.train": "org/data"}


@pytest.mark.parametrize("keys", [{"model.quantize": "4bit"}, {"model.device": "cuda"}])
def test_clients_without_a_gpu_are_told_with_what_to_do(keys, tmp_path):
    config = RunConfig.parse(PLACES | keys)
    (problem,) = federation_problems(config, OWN)
    assert "gives clients no GPU" in problem and "init-args-num-gpus = 1" in problem
    gpu = tmp_path / "gpu.toml"
    gpu.write_text(OWN.read_text("utf-8").replace("num-gpus = 0.0", "num-gpus = 0.5"))
    assert not [*federation_problems(config, gpu)]
    assert not [*federation_problems(RunConfig.parse(PLACES), OWN)]
    # Real devices have a GPU of their own, and a file that is not there is Flower's to refuse.
    node = {"data.train": "node", "data.labels": "2", "run.name": "a"}
    assert not [*federation_problems(RunConfig.parse(PLACES | keys | node), OWN)]
    assert not [*federation_problems(config, tmp_path / "none.toml")]


def test_the_command_refuses_before_anything_starts():
    words = ["run", "model.quantize=4bit", *(f"{k}={v}" for k, v in PLACES.items())]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 1 and "gives clients no GPU" in done.stderr
