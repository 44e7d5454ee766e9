"""The loss of responses, what is measured beside it, and packed rows that stay apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, MambaConfig, MambaForCausalLM

from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.play import run_local
from fedllm_app.run.metrics import read_lines
from fedllm_app.tasks import TaskSettings, falls
from fedllm_app.tasks.base import IGNORED, Metric
from fedllm_app.tasks.instruction import INSTRUCTION, Instruction

X = IGNORED
ROWS = [
    {"input_ids": [5, 6, 7, 8, 2], "responses": [3, 5]},
    {"input_ids": [4, 9, 2, 3, 3, 9, 2], "responses": [1, 3, 5, 7]},
]
PACKED = {
    "input_ids": np.array([[5, 6, 7, 8, 2, 4, 9, 2, 0, 0]]),
    "starts": np.array([[0, 0], [0, 5], [0, 8]]),
    "responses": np.array([[0, 3], [0, 5], [0, 6], [0, 8]]),
}


def test_responses_are_learned_and_nothing_else():
    batch = Instruction(0).collate(ROWS)
    assert batch["labels"].tolist() == [[X, X, X, 8, 2, X, X], [X, 9, 2, X, X, 9, 2]]
    assert Instruction(0).units(batch) == 6
    assert "measured" not in batch


def test_all_tokens_are_learned_by_key_and_the_responses_measured_all_the_same():
    task = Instruction(0, everything=True)
    batch = task.collate(ROWS)
    assert batch["labels"].tolist() == [[5, 6, 7, 8, 2, X, X], [4, 9, 2, 3, 3, 9, 2]]
    logits = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(0))
    assert task.units(batch) == 10
    only = Instruction(0)
    assert task.tally(logits, batch) == only.tally(logits, only.collate(ROWS))
    assert task.tally(logits, batch)["units"] == 6


def test_a_packed_row_says_where_conversations_begin_and_pads_are_not_learned():
    batch = Instruction(0, packed=True).collate(PACKED)
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 0, 1]]
    assert batch["labels"].tolist() == [[X, X, X, 8, 2, X, 9, 2, X, X]]
    every = Instruction(0, everything=True, packed=True).collate(PACKED)
    assert every["labels"].tolist() == [[X, 6, 7, 8, 2, X, 9, 2, X, X]]
    assert every["measured"].tolist() == batch["labels"].tolist()


def gradients(model, task, rows):
    model.zero_grad()
    batch = task.collate(rows)
    labels = batch["labels"]
    logits = model(**{k: v for k, v in batch.items() if k not in ("labels", "measured")}).logits
    loss = task.loss(logits, batch) * (labels[:, 1:] != X).sum()
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])


def test_no_gradient_crosses_from_one_conversation_to_another(tiny):
    model = AutoModelForCausalLM.from_pretrained(tiny.root / "llama").eval()
    model.config.use_cache = False
    apart = [ROWS[0], {"input_ids": [4, 9, 2], "responses": [1, 3]}]
    loss, whole = gradients(model, Instruction(0, packed=True), PACKED)
    each = [gradients(model, Instruction(0), [row]) for row in apart]
    assert loss == pytest.approx(sum(one for one, _ in each), rel=1e-5)
    torch.testing.assert_close(whole, each[0][1] + each[1][1], atol=1e-5, rtol=1e-4)
    # Tokens of the first conversation get no gradient from what is learned in the second.
    ids = torch.from_numpy(PACKED["input_ids"])
    inputs = model.get_input_embeddings()(ids).detach().requires_grad_()
    batch = Instruction(0, packed=True).collate(PACKED)
    logits = model(inputs_embeds=inputs, position_ids=batch["position_ids"]).logits
    torch.nn.functional.cross_entropy(logits[0, 5:7], ids[0, 6:8]).backward()
    assert inputs.grad[0, :5].abs().max() == 0
    assert inputs.grad[0, 5:7].abs().min() > 0


def test_a_model_that_reads_on_is_refused_with_a_way_out_that_is_legal(tiny, tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4, "vocab_size": 12}
    MambaForCausalLM(MambaConfig(**sizes)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny.root / "llama").save_pretrained(tmp_path)
    keys = tiny.keys("instruction") | {
        "model.source": str(tmp_path), "model.train": "full", "task.packing": True,
        "strategy.name": "fedavg",
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"task.packing is true.*set task.packing = false"):
        _ = Parts(RunConfig.parse(keys), Place(tiny.home)).model
    assert Parts(RunConfig.parse(keys | {"task.packing": False}), Place(tiny.home)).model


def test_a_federation_learns_to_answer(tiny):
    keys = tiny.keys("instruction") | {
        "run.name": "chat-packed", "run.rounds": 5, "task.packing": True,
        "task.max-tokens": 32, "partition.clients": 2, "round.clients": 2,
        "client.lr": 0.02, "client.optimizer": "adamw", "client.batch": 2,
        "client.epochs": 2, "model.train": "full", "strategy.name": "fedavg",
        "round.evaluate-every": 5,
    }  # fmt: skip
    folder = run_local(RunConfig.parse(keys))
    records = read_lines(folder / "metrics.jsonl")
    first, last = records[0]["evaluation"], records[-1]["evaluation"]
    assert list(first) == ["loss", "perplexity", "token-accuracy"]
    assert last["token-accuracy"] > max(0.8, first["token-accuracy"])
    assert last["loss"] < 0.5 < first["loss"]
    assert falls("loss", "instruction") and not falls("token-accuracy", "instruction")
    assert (folder / "model" / "chat_template.jinja").read_text().startswith("{% for message")


OWN = replace(INSTRUCTION, name="mine", metrics=(Metric("charm"), *INSTRUCTION.metrics))


def test_a_task_of_ones_own_made_from_it_stays_its_own():
    kind = TaskSettings(name=f"{__name__}:OWN", packing=True, generate=1).kind
    assert (kind.name, kind.headline, kind.packed) == ("mine", "charm", True)
    often = TaskSettings(name=f"{__name__}:OWN", generate=1, generate_at="evaluations").kind
    assert often.metric_names == (*kind.metric_names, "exact-match", "rouge-l")


def test_keys_of_conversations_are_refused_with_other_tasks():
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse(
            {"task.packing": True, "task.loss-on": "all", "model.chat-template": "nothing"}
        )
    text = str(caught.value)
    assert "task.packing is True, which task.name = 'sequence-classification'" in text
    assert "task.loss-on is 'all'" in text
    assert "model.chat-template is 'nothing'; expected plain, chatml" in text
