"""From scratch to a fine-tuned model, at toy size: the two recipes of recipes/pipeline in turn.

The first run is killed twice. What it leaves is loaded by plain transformers, and is the base of
the second run, whose merged model generates.
"""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedllm_app.config import RunConfig, read_recipe
from fedllm_app.models.export import merge
from fedllm_app.play import LocalTransport, run_local
from fedllm_app.run.metrics import read_lines

RECIPES = Path(__file__).parents[1] / "recipes" / "pipeline"
SMALL = {
    "task.max-tokens": 8, "partition.clients": 4, "round.clients": 2, "client.batch": 2,
    "run.checkpoint-every": 1, "round.evaluate-every": 1,
}  # fmt: skip


def generates(folder):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    words = AutoTokenizer.from_pretrained(folder)("the sun", return_tensors="pt")
    with torch.inference_mode():
        made = model.generate(**words, max_new_tokens=4, do_sample=False)
    return made.shape[1] > words["input_ids"].shape[1]


def test_a_model_from_scratch_is_the_base_of_a_sparse_fine_tuning(tiny):
    places = {
        k: v for k, v in tiny.keys("pretraining").items() if not k.startswith(("model", "task"))
    }
    more = {"run.rounds": 4, "client.steps": 2, "client.stream-end": "wrap"}
    config = RunConfig.parse(read_recipe(RECIPES / "pretrain.toml") | places | SMALL | more)

    for round_ in (2, 4):

        class Dying(LocalTransport):
            dies_in = round_

            def submit(self, requests, timeout_s):
                if requests[0].round == self.dies_in:
                    raise KeyboardInterrupt
                super().submit(requests, timeout_s)

        with pytest.raises(KeyboardInterrupt):
            run_local(config, Dying)
    first = run_local(config)
    assert [r["round"] for r in read_lines(first / "metrics.jsonl")] == [0, 1, 2, 3, 4]
    assert generates(first / "model")

    tuned = read_recipe(RECIPES / "finetune.toml") | places | SMALL
    tuned |= {"run.rounds": 2, "model.source": str(first / "model"), "lora.rank": 2}
    second = run_local(RunConfig.parse(tuned))
    assert all(r["update-norm"] > 0 for r in read_lines(second / "metrics.jsonl")[1:])
    assert generates(merge(second / "adapter", tiny.root / "merged", "", tiny.home / "cache"))
