"""A client as in the template: base, adapters, tokenizer and rows are made anew for every message.

The data set is opened once per process.
"""

import json
import math
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer
from tune_model import build

app = ClientApp()


@lru_cache(maxsize=1)
def by_client(path: str) -> dict[str, list[tuple[str, str]]]:
    """Return (instruction, response) pairs by client."""
    owned: dict[str, list[tuple[str, str]]] = {}
    for row in pq.read_table(path).to_pylist():
        owned.setdefault(row["client"], []).append((row["instruction"], row["response"]))
    return owned


def encoded(config: Mapping[str, Any], pairs: list[tuple[str, str]]) -> list[tuple[Tensor, Tensor]]:
    """Return ids and labels of each conversation; only its response is learned."""
    tokenizer = AutoTokenizer.from_pretrained(str(config["source"]))
    rows = []
    for asked, answer in pairs:
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        whole = tokenizer.apply_chat_template(turns, tokenize=False)
        front = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
        ids = torch.tensor(tokenizer(whole)["input_ids"][: int(config["max-tokens"])])
        labels = ids.clone()
        labels[: len(tokenizer(front)["input_ids"])] = -100
        rows.append((ids, labels))
    return rows


def rate(config: Mapping[str, Any], server_round: int, rounds: int) -> float:
    """Return the local rate of a round, a cosine over all of them."""
    low, high = float(config["lr-min"]), float(config["lr-max"])
    return low + (high - low) * (1 + math.cos(math.pi * server_round / rounds)) / 2


@app.train()
def train(message: Message, context: Context) -> Message:
    """Fine-tune the adapters on one client's conversations."""
    config, times = context.run_config, Path(str(context.run_config["times"]))
    with times.open("a") as file:
        file.write(json.dumps({"trained": time.time()}) + "\n")
    cohorts = json.loads(Path(str(config["cohorts"])).read_text())
    server_round = int(message.content["config"]["server-round"])
    client = cohorts[server_round - 1][int(context.node_config["partition-id"])]
    rows = encoded(config, by_client(str(config["data"]))[client])
    model = build(config)
    received = message.content["arrays"]
    set_peft_model_state_dict(model, received.to_torch_state_dict())
    model.train()
    own = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(own, lr=rate(config, server_round, len(cohorts)))
    size, total = int(config["batch"]), 0.0
    order = torch.randperm(len(rows)).tolist()
    for step in range(int(config["steps"])):
        chosen = [rows[order[i % len(rows)]] for i in range(step * size, (step + 1) * size)]
        ids = pad_sequence([row for row, _ in chosen], batch_first=True)
        labels = pad_sequence(
            [marked for _, marked in chosen], batch_first=True, padding_value=-100
        )
        mask = pad_sequence([torch.ones_like(row) for row, _ in chosen], batch_first=True)
        optimizer.zero_grad()
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimizer.step()
        total += float(loss.detach())
    arrays = ArrayRecord(get_peft_model_state_dict(model))
    with times.open("a") as file:
        sizes = {"down-bytes": received.count_bytes(), "up-bytes": arrays.count_bytes()}
        file.write(json.dumps({**sizes, "of-round": server_round, "arrays": len(arrays)}) + "\n")
    metrics = MetricRecord({"train-loss": total / int(config["steps"]), "num-examples": len(rows)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
