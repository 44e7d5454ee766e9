"""A client as in the example: model and partition are prepared anew for every message.

The whole data set is opened once per process; a client's texts are tokenized when it is asked.
"""

import json
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from example_model import build
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from transformers import AutoTokenizer

app = ClientApp()


@lru_cache(maxsize=1)
def by_client(path: str) -> dict[str, list[tuple[str, int]]]:
    """Return (text, label) pairs by client."""
    owned: dict[str, list[tuple[str, int]]] = {}
    for row in pq.read_table(path).to_pylist():
        owned.setdefault(row["client"], []).append((row["text"], row["label"]))
    return owned


def batches(config: Mapping[str, Any], rows: list[tuple[str, int]]) -> Iterator[dict[str, Tensor]]:
    """Yield one pass over a client's data in batches padded to their own longest row."""
    tokenizer = AutoTokenizer.from_pretrained(str(config["source"]))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    texts = [text for text, _ in rows]
    encoded = tokenizer(texts, truncation=True, max_length=int(config["max-tokens"]))
    size = int(config["batch"])
    order = torch.randperm(len(rows)).tolist()
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        ids = [{"input_ids": encoded["input_ids"][i]} for i in chosen]
        batch = dict(tokenizer.pad(ids, return_tensors="pt"))
        if int(config["labels"]):
            batch["labels"] = torch.tensor([rows[i][1] for i in chosen])
        else:
            batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        yield batch


@app.train()
def train(message: Message, context: Context) -> Message:
    """Fine-tune the adapters on one client's texts."""
    config = context.run_config
    with Path(str(config["times"])).open("a") as file:
        file.write(json.dumps({"trained": time.time()}) + "\n")
    cohorts = json.loads(Path(str(config["cohorts"])).read_text())
    cohort = cohorts[int(message.content["config"]["server-round"]) - 1]
    rows = by_client(str(config["data"]))[cohort[int(context.node_config["partition-id"])]]
    model = build(config)
    set_peft_model_state_dict(model, message.content["arrays"].to_torch_state_dict())
    model.train()
    own = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(own, lr=float(config["lr"]), momentum=float(config["momentum"]))
    total, steps = torch.zeros(()), 0
    for batch in islice(batches(config, rows), int(config["steps"]) or None):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        total, steps = total + loss.detach(), steps + 1
    metrics = MetricRecord({"train-loss": float(total) / steps, "num-examples": len(rows)})
    arrays = ArrayRecord(get_peft_model_state_dict(model))
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
