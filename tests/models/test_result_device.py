"""Where the model of a finished run answers, and in which type."""

import pytest
import torch

from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError
from fedllm_app.models import result
from fedllm_app.play import run_local
from fedllm_app.talk import harness


@pytest.mark.parametrize(("asked", "seen", "taken"), [
    ("auto", True, ("cuda", torch.bfloat16)), ("auto", False, ("cpu", torch.float32)),
    ("cpu", True, ("cpu", torch.float32)), ("cuda", True, ("cuda", torch.bfloat16)),
])  # fmt: skip
def test_a_gpu_is_taken_where_there_is_one(monkeypatch, asked, seen, taken):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen)
    assert result.computes_on(asked) == taken


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"--device is 'cuda'.*expected 'cpu' or 'auto'"):
        result.computes_on("cuda")
    with pytest.raises(ConfigError, match="--device is 'gpu'; expected one of auto, cpu, cuda"):
        result.computes_on("gpu")


@pytest.mark.parametrize("train", ["lora", "full"])
def test_all_of_a_model_is_moved_there_and_the_harness_is_told(tiny, monkeypatch, train):
    keys = tiny.keys("instruction") | {
        "run.name": f"moved-{train}", "run.rounds": 1, "partition.clients": 2, "round.clients": 2,
        "client.steps": 1, "client.batch": 2, "lora.rank": 2, "model.train": train,
        "strategy.name": "dense",
    }  # fmt: skip
    run = run_local(RunConfig.parse(keys))
    model, _, _ = result.load_result(result.result_folder(run))
    assert {(t.device.type, t.dtype) for t in model.parameters()} == {("cpu", torch.float32)}
    on_gpu = lambda asked: ("meta", torch.bfloat16)  # noqa: E731 - as a GPU would be
    monkeypatch.setattr(result, "computes_on", on_gpu)
    monkeypatch.setattr(harness, "computes_on", lambda asked: ("cuda", torch.bfloat16))
    model, _, _ = result.load_result(result.result_folder(run), device="auto")
    assert {(t.device.type, t.dtype) for t in model.parameters()} == {("meta", torch.bfloat16)}
    tables = {t.dtype for name, t in model.named_buffers() if "inv_freq" in name}
    assert tables == {torch.float32}  # rotary positions need them
    seen = []
    monkeypatch.setattr(harness, "find_spec", lambda name: object())
    monkeypatch.setattr(
        harness.subprocess, "run",
        lambda words, check: seen.append(words) or harness.subprocess.CompletedProcess(words, 0),
    )  # fmt: skip
    harness.evaluate(run, "a", run / "eval", "", tiny.home, None, 0, False, "auto")
    assert "dtype=bfloat16" in " ".join(seen[0])
    assert seen[0][seen[0].index("--device") + 1] == "cuda"
