"""The least that a round of LoRA training costs: a bare PEFT loop without any framework.

    python -m benchmarks.peers.bare INPUTS     trains once, prints the process's memory

No wire, no sampling, no files, no server process: batches lie collated in memory, clients are
trained one after the other or shared out over processes, and the server is a dense mean and Adam.
It imports torch, transformers and peft alone, so that its memory is theirs.
"""

import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)
from transformers.utils import logging

Batch = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a peer trains, and how.

    Attributes
    ----------
    source : folder of the backbone.
    labels : number of classes; 0 is next-token prediction.
    rank, alpha, dropout, targets : of LoRA.
    lr, momentum, server_lr : of local SGD and of the server's Adam.
    initial : the trainable tensors by PEFT's names.
    clients : the collated batches of every client.
    """

    source: str
    labels: int
    rank: int
    alpha: float
    dropout: float
    targets: list[str]
    lr: float
    momentum: float
    server_lr: float
    initial: dict[str, Tensor]
    clients: dict[str, list[Batch]]

    def save(self, path: Path) -> Path:
        """Write everything to one file."""
        torch.save(vars(self), path)
        return path

    @classmethod
    def open(cls, path: Path) -> "Inputs":
        """Read what `save` wrote."""
        return cls(**torch.load(path))


def build(inputs: Inputs) -> nn.Module:
    """Return the PEFT model with its initial values; the backbone's own dropout is off.

    Raises
    ------
    ValueError
        If PEFT trains other tensors than those of the initial values.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = AutoConfig.from_pretrained(inputs.source)
    for name, value in vars(config).items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    config.use_cache = False
    if inputs.labels:
        config.num_labels, config.problem_type = inputs.labels, "single_label_classification"
    kind = AutoModelForSequenceClassification if inputs.labels else AutoModelForCausalLM
    base = kind.from_pretrained(inputs.source, config=config, dtype=torch.float32)
    lora = LoraConfig(
        r=inputs.rank,
        lora_alpha=inputs.alpha,
        lora_dropout=inputs.dropout,
        target_modules=inputs.targets,
        task_type=TaskType.SEQ_CLS if inputs.labels else TaskType.CAUSAL_LM,
    )
    model = get_peft_model(base, lora)
    if get_peft_model_state_dict(model).keys() != inputs.initial.keys():
        raise ValueError("PEFT trains other tensors here than the run that it is compared with")
    set_peft_model_state_dict(model, inputs.initial)
    return model


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are trained."""
    return [p for p in model.parameters() if p.requires_grad]


def train(model: nn.Module, batches: Sequence[Batch], lr: float, momentum: float) -> float:
    """Train on the batches in place; return the mean loss of a row."""
    model.train()
    optimizer = torch.optim.SGD(trainable(model), lr=lr, momentum=momentum)
    total = torch.zeros(())
    for batch in batches:
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(batch["labels"])
    return float(total) / sum(len(batch["labels"]) for batch in batches)


class Server:
    """The dense global values and Adam on the mean delta."""

    def __init__(self, model: nn.Module, lr: float) -> None:
        self.values = [p.detach().clone() for p in trainable(model)]
        self.optimizer = torch.optim.Adam(self.values, lr=lr)

    def step(self, deltas: Sequence[list[Tensor]]) -> None:
        """Take one step."""
        for value, *parts in zip(self.values, *deltas, strict=True):
            value.grad = torch.stack(parts).mean(0)
        self.optimizer.step()


def delta_of(
    model: nn.Module, values: Sequence[Tensor], batches: Sequence[Batch], inputs: Inputs
) -> list[Tensor]:
    """Return what one client's training takes away from the global values."""
    with torch.no_grad():
        for parameter, value in zip(trainable(model), values, strict=True):
            parameter.copy_(value)
    train(model, batches, inputs.lr, inputs.momentum)
    pairs = zip(values, trainable(model), strict=True)
    return [value - parameter.detach() for value, parameter in pairs]


def rounds_in_one(inputs: Inputs, cohorts: Sequence[Sequence[str]], threads: int) -> list[float]:
    """Play rounds in this process and return the seconds of each."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    model = build(inputs)
    server, seconds = Server(model, inputs.server_lr), []
    for cohort in cohorts:
        began = time.perf_counter()
        clients = (inputs.clients[name] for name in cohort)
        server.step([delta_of(model, server.values, batches, inputs) for batches in clients])
        seconds.append(time.perf_counter() - began)
    torch.set_num_threads(before)
    return seconds


_OWN: dict[str, Any] = {}  # of a worker process: its inputs and its model


def _begin(path: str) -> None:
    torch.set_num_threads(1)
    _OWN["inputs"] = Inputs.open(Path(path))
    _OWN["model"] = build(_OWN["inputs"])


def _client(name: str, values: list[Any]) -> list[Any]:
    inputs = _OWN["inputs"]
    tensors = [torch.from_numpy(value) for value in values]
    deltas = delta_of(_OWN["model"], tensors, inputs.clients[name], inputs)
    return [delta.numpy() for delta in deltas]


def rounds_in_many(path: Path, cohorts: Sequence[Sequence[str]], workers: int) -> list[float]:
    """Play rounds over processes of one thread, longest client first; return their seconds."""
    inputs, seconds = Inputs.open(path), []
    server = Server(build(inputs), inputs.server_lr)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, _begin, (str(path),)) as pool:
        for cohort in cohorts:
            began = time.perf_counter()
            values = [value.numpy() for value in server.values]
            order = sorted(cohort, key=lambda name: -len(inputs.clients[name]))
            replies = list(pool.map(_client, order, [values] * len(order)))
            server.step([[torch.from_numpy(x) for x in reply] for reply in replies])
            seconds.append(time.perf_counter() - began)
    return seconds


def peak_rss_mb() -> float:
    """Return the largest resident set size of this process.

    Not getrusage's: in a process that was started by a larger one, Linux reports the larger's.
    """
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def main() -> None:
    """Train every client of the inputs once on one thread, and print the memory in MB."""
    torch.set_num_threads(1)
    imported = peak_rss_mb()
    inputs = Inputs.open(Path(sys.argv[1]))
    model = build(inputs)
    for batches in inputs.clients.values():
        train(model, batches, inputs.lr, inputs.momentum)
    print(json.dumps({"imports-mb": imported, "peak-rss-mb": peak_rss_mb()}))


if __name__ == "__main__":
    main()
