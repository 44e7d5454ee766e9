"""A run's centralized twin: what it takes over, that it is plain training, what it refuses."""

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fedllm_app.cli import app
from fedllm_app.client.train import local_batches
from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError
from fedllm_app.core.job import Job
from fedllm_app.core.plan import Work
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.play import run_local
from fedllm_app.run.checkpoint import newest_whole
from fedllm_app.study.centralized import Equal, twin

RUN = {
    "run.rounds": 2, "round.clients": 3, "client.steps": 2, "client.batch": 4,
    "client.optimizer": "adamw", "client.lr": 0.001, "client.schedule": "cosine",
    "client.warmup-steps": 1, "client.schedule-steps": 4, "client.clip-norm": 1.0,
    "model.train": "full", "task.name": "next-token", "strategy.name": "floss",
}  # fmt: skip


def config(tiny, **more):
    keys = tiny.keys("next-token") | RUN | {"run.name": "twin", "network.up-mbps": 1.0}
    slow = {"network.down-mbps": 1.0, "compute.step-s": 2.0, "compute.ratio": 4.0}
    return RunConfig.parse(keys | slow | more)


def test_a_twin_has_the_runs_rows_and_none_of_its_federation(tiny):
    steps, tokens = (twin(config(tiny), equal) for equal in Equal)
    assert (steps.client.steps, steps.client.batch) == (2, 12)
    assert (tokens.client.steps, tokens.client.batch) == (6, 4)
    assert (steps.client.warmup_steps, steps.client.schedule_steps) == (1, 4)
    assert (tokens.client.warmup_steps, tokens.client.schedule_steps) == (3, 12)
    for made in (steps, tokens):
        assert made.run.rounds == 2
        assert (made.partition.clients, made.round.clients) == (1, 1)
        assert made.strategy.name == "fedavg"
        assert made.network.up_mbps == 0
        assert not made.compute.on and made.compute.ratio == 1
        assert made.data == config(tiny).data
    assert steps.run.name == "twin-centralized-steps"


def test_a_twin_is_plain_training_on_all_rows(tiny):
    made = twin(config(tiny), Equal.TOKENS).resolved()
    folder = run_local(made)
    end = newest_whole(folder / "checkpoints")
    parts = Parts(made, Place.of(made))
    model, client = parts.model, made.client
    optimizer = torch.optim.AdamW(
        [model.flat], lr=client.lr, betas=(client.beta1, client.beta2), weight_decay=0.0
    )
    factors = [1 / 3, 2 / 3, 1.0] + [0.5 * (1 + np.cos(np.pi * i / 9)) for i in range(9)]
    device, step = parts.device(folder), 0
    model.model.train()
    for t in (1, 2):
        for batch in local_batches(device, Job(t, "0"), Work()):
            model.grad.zero_()
            device.loss(model.logits(batch), batch)[0].backward()
            torch.nn.utils.clip_grad_norm_([model.flat], 1.0)
            for group in optimizer.param_groups:
                group["lr"] = client.lr * factors[step]
            optimizer.step()
            step += 1
    assert step == 12
    ours = end.tensors["params"]
    np.testing.assert_allclose(ours, model.flat.numpy(), rtol=0, atol=2e-6)
    assert np.abs(ours - parts.initial).max() > 1e-3


def test_a_run_in_epochs_or_on_devices_has_no_twin(tiny):
    with pytest.raises(ConfigError, match=r"client\.steps is 0; expected the local steps"):
        twin(config(tiny, **{"client.steps": 0}), Equal.STEPS)
    words = [f"{k}={v}" for k, v in {"client.steps": 2, "data.train": '"node"'}.items()]
    done = CliRunner().invoke(app, ["centralized", *words])
    assert done.exit_code == 1
    assert "data.train is 'node'" in done.stderr
