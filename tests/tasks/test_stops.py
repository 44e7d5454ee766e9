"""A model that is tuned on documents learns where they end."""

import json

import torch

from fedllm_app.config import RunConfig
from fedllm_app.play import run_local


def test_a_model_tuned_on_documents_stops_where_they_do(tiny, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = tmp_path / "rows.jsonl"
    file.write_text((json.dumps({"text": "sun moon sea"}) + "\n") * 40)
    keys = tiny.keys("next-token") | {
        "data.train": str(file), "data.test": "", "model.train": "full", "run.name": "stops",
        "run.rounds": 15, "partition.clients": 2, "round.clients": 2, "client.lr": 0.02,
        "client.optimizer": "adamw", "client.batch": 4, "strategy.name": "fedavg",
        "round.evaluate-every": 15,
    }  # fmt: skip
    folder = run_local(RunConfig.parse(keys)) / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    begun = tokenizer("sun", return_tensors="pt")
    with torch.inference_mode():
        said = model.generate(
            **begun, do_sample=False, max_new_tokens=8, eos_token_id=tokenizer.eos_token_id
        )
    assert tokenizer.decode(said[0]).split() == ["sun", "moon", "sea", "[EOS]"]
