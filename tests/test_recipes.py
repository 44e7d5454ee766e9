"""Every recipe parses and runs: two rounds of it, with tiny models and data in place of its own.

What a recipe says of the method, the wire, the optimizers and the rounds stays as it is.
"""

import json
from pathlib import Path

import pytest
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as LAYERS

from fedllm_app.config import RunConfig, read_recipe
from fedllm_app.config.inputs import input_problems
from fedllm_app.models.scratch import SHAPES
from fedllm_app.play import run_local
from fedllm_app.run.metrics import read_lines

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))


def named(path):
    return path.relative_to(ROOT / "recipes").with_suffix("").as_posix()


def placed(recipe):
    """Return a recipe's keys with the places that it leaves to its user."""
    return {"data.train": "org/data", "model.source": "org/model"} | recipe


def shrunk(recipe, tiny):
    """Return a recipe's keys with everything large, and every place, replaced."""
    own = RunConfig.parse(placed(recipe))
    keys = recipe | tiny.keys(own.task.name)
    clients = min(own.round.clients, 3)
    if own.reading == "stream":  # a dozen short rows for each client
        keys |= {"client.stream-end": "wrap", "task.max-tokens": 4}
    if own.task.kind.chat:
        keys |= {"task.max-tokens": 32}
    return keys | {
        "run.rounds": 2,
        "data.strip": "none",
        "data.labels": "",
        "data.image-side": 0,
        "data.instruction-column": "instruction",
        "data.response-column": "response",
        "model.quantize": "",
        "task.generate": min(own.task.generate, 1),
        "task.generate-tokens": 4,
        "data.eval-examples": 6,
        "partition.clients": 6,
        "lora.rank": min(own.lora.rank, 2),
        "client.epochs": 1,
        "client.steps": min(own.client.steps or 2, 2),
        "client.batch": min(own.client.batch, 4),
        "round.clients": clients,
        "round.min-replies": min(own.round.min_replies, clients),
        "round.evaluate-every": 1,
        "round.target": 0.0,
    }


def test_there_are_recipes():
    assert {"bench-s", "shakespeare", "cifar10", "devices"} <= {named(p) for p in RECIPES}


@pytest.mark.parametrize("task", ["20newsgroups", "cifar10", "reddit"])
def test_a_thesis_recipe_has_the_settings_of_the_thesis(task):
    c = RunConfig.parse(placed(read_recipe(ROOT / "recipes" / "thesis" / f"{task}.toml")))
    assert (c.strategy.name, c.strategy.d_down, c.strategy.d_up) == ("floss", 0.25, 0.25)
    assert (c.run.rounds, c.lora.rank, c.lora.alpha, c.lora.dropout) == (200, 16, 16, 0.1)
    assert (c.client.optimizer, c.client.lr, c.client.momentum) == ("sgd", 1e-3, 0.9)
    server = c.server.resolved()
    assert (server.optimizer, server.lr, server.weight_decay) == ("adamw", 1e-3, 0.01)
    assert c.client.batch == 16
    scale = {
        "20newsgroups": ("openai-community/gpt2", 350, 128, 5),
        "cifar10": ("google/vit-base-patch16-224-in21k", 500, c.task.max_tokens, 5),
        "reddit": ("openai-community/gpt2", 40_000, 25, 5),
    }
    told = (c.model.source, c.partition.clients, c.task.max_tokens, c.round.clients)
    assert told == scale[task]


@pytest.mark.parametrize("size", SHAPES)
def test_a_pretraining_recipe_trains_the_model_of_its_name_as_photon_does(size):
    path = ROOT / "recipes" / "pretraining" / f"{size}.toml"
    c = RunConfig.parse(placed(read_recipe(path)))
    assert (c.model.source, c.model.train) == (f"scratch:{size}", "full")
    client, server = c.client, c.resolved().server
    assert (client.optimizer, client.beta1, client.beta2) == ("adamw", 0.9, 0.95)
    assert (client.clip_norm, client.weight_decay, client.decay_all) == (1.0, 0.1, False)
    # The rate falls to a tenth over all steps of the run.
    assert (client.schedule, client.lr_floor) == ("cosine", 0.1)
    assert client.schedule_steps == c.run.rounds * client.steps
    assert (server.optimizer, server.lr, server.momentum) == ("sgd", 1.0, 0.0)


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_a_recipe_parses_and_says_what_it_is_for(path):
    RunConfig.parse(placed(read_recipe(path)))
    assert path.read_text("utf-8").startswith("# ")
    # Places are the user's: nobody else has that folder.
    assert not any(str(v).startswith("/") for v in read_recipe(path).values())


@pytest.mark.parametrize("of", ["general", "finance", "medical", "code"])
def test_a_flowertune_recipe_has_the_settings_of_the_leaderboard(of):
    c = RunConfig.parse(read_recipe(ROOT / "recipes" / f"flowertune-{of}.toml"))
    assert (c.partition.clients, c.round.clients, c.run.rounds) == (20, 2, 200)
    assert (c.client.steps, c.client.batch, c.task.max_tokens) == (10, 16, 512)
    assert (c.lora.rank, c.lora.alpha, c.lora.dropout) == (32, 64.0, 0.075)
    # Its template names no layers, and these are PEFT's for Mistral.
    assert c.lora.targets.split(",") == LAYERS["mistral"]


def test_any_file_of_conversations_does_for_the_recipe_of_instruction_tuning(tiny, tmp_path):
    row = {"messages": [{"role": role, "content": "the sun"} for role in ("user", "assistant")]}
    (tmp_path / "chats.jsonl").write_text(f"{json.dumps(row)}\n" * 40)
    keys = read_recipe(ROOT / "recipes" / "instruction.toml") | tiny.keys("instruction")
    keys |= {"data.train": str(tmp_path / "chats.jsonl"), "lora.rank": 2}
    assert not input_problems(RunConfig.parse(keys))


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_a_recipe_for_a_gpu_gives_its_clients_one(path):
    c, text = RunConfig.parse(placed(read_recipe(path))), path.read_text("utf-8")
    if c.model.quantize:
        assert f"fedllm run recipes/{named(path)}.toml" in text and "--federation gpu.toml" in text


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_a_recipe_runs(path, tiny):
    name = named(path).replace("/", "-")
    keys = shrunk(read_recipe(path), tiny) | {"run.name": f"recipe-{name}"}
    folder = run_local(RunConfig.parse(keys))
    rows = read_lines(folder / "metrics.jsonl")
    assert [r["round"] for r in rows] == [0, 1, 2]
    assert all(r["clients"] > 0 and not r["dropped"] for r in rows[1:])
    assert all(r["update-norm"] > 0 for r in rows[1:])
    assert rows[0]["headline"] in rows[2]["evaluation"]
    assert (folder / "report.html").exists()
    result = folder / ("adapter" if RunConfig.parse(keys).model.train == "lora" else "model")
    said = json.loads((result / "fedllm.json").read_text("utf-8"))
    assert said["metrics"] == pytest.approx(rows[2]["evaluation"])
