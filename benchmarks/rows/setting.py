"""A run that peers are compared on: its settings, its clients' batches, and how ours plays it."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.peers.bare import Inputs
from benchmarks.peers.flasc_style import padded
from benchmarks.record import ROOT
from benchmarks.rows.row import Context
from benchmarks.studies.overhead import FEDERATION
from fedllm_app.client.train import Device, local_batches
from fedllm_app.config import RunConfig, read_recipe
from fedllm_app.core.job import Job
from fedllm_app.core.plan import Work
from fedllm_app.deploy.launch import run_flower
from fedllm_app.parts import Parts
from fedllm_app.place import Place
from fedllm_app.run.metrics import read_lines
from fedllm_app.server.sampling import sample_cohort

# The closing evaluation is no part of a round; a few examples keep it short.
COMMON = {
    "model.device": "cpu", "client.threads": 1, "round.evaluate-every": 0, "data.eval-examples": 64,
}  # fmt: skip
SMALL = {  # SmolLM2 on the same posts: a step of it takes seconds on one core
    "partition.name": "iid",
    "partition.clients": 350,
    "data.strip": "headers",
    "round.clients": 4,
    "client.batch": 4,
    "client.steps": 1,
    "data.eval-examples": 8,
}


@dataclass(frozen=True)
class Setting:
    """A recipe with given data and model, and the first rounds of it.

    Attributes
    ----------
    recipe : file of settings.
    keys : run-config put over it.
    rounds : how many are played; round 1 warms up.
    """

    recipe: Path
    keys: dict[str, Any]
    rounds: int

    @cached_property
    def config(self) -> RunConfig:
        """The checked configuration, automatic values filled in."""
        return RunConfig.parse(read_recipe(self.recipe) | self.keys).resolved()

    @cached_property
    def parts(self) -> Parts:
        """Data and model as a worker has them."""
        return Parts(self.config, Place.of(self.config))

    @cached_property
    def device(self) -> Device:
        """What a worker trains with."""
        return self.parts.device(Path(self.keys["run.home"]) / "unused")

    @cached_property
    def cohorts(self) -> list[list[str]]:
        """The clients of each round, as ours samples them."""
        counts, c = self.parts.counts(), self.config
        return [
            sample_cohort(counts, c.round.cohort, c.run.seed, t + 1) for t in range(self.rounds)
        ]

    @cached_property
    def names(self) -> list[list[str]]:
        """The same as names of `Inputs.clients`: a client's order is another in each round."""
        return [[f"{t}/{c}" for c in cohort] for t, cohort in enumerate(self.cohorts, 1)]

    def inputs(self, tokens: int = 0) -> Inputs:
        """Return what peers train: the batches that ours trains; padded to `tokens` unless 0."""
        c, parts = self.config, self.parts
        clients = {}
        for t, cohort in enumerate(self.cohorts, 1):
            for client in cohort:
                own = list(local_batches(self.device, Job(t, client), Work()))
                if tokens:
                    own = [padded(batch, tokens, parts.tokenizer.pad_token_id) for batch in own]
                clients[f"{t}/{client}"] = own
        values = parts.model.layout.unflatten(torch.from_numpy(parts.initial))
        return Inputs(
            source=parts.source,
            labels=len(parts.labels),
            rank=c.lora.rank,
            alpha=c.lora.alpha,
            dropout=c.lora.dropout,
            targets=c.lora.targets.split(","),
            lr=c.client.lr,
            momentum=c.client.momentum,
            server_lr=c.server.lr,
            initial={name: value.clone() for name, value in values.items()},
            clients=clients,
        )

    def run(self, name: str, **changes: Any) -> list[dict[str, Any]]:
        """Play ours through `flwr run`, two workers, and return its timing by round from 1.

        Raises
        ------
        RuntimeError
            If the run fails.
        """
        keys = self.keys | {"run.rounds": self.rounds, "run.name": name} | changes
        words = [f"{key}={json.dumps(value)}" for key, value in keys.items()]
        code = run_flower(ROOT, recipe=self.recipe, overrides=words, federation=FEDERATION)
        if code:
            raise RuntimeError(f"our run of {self.recipe.name} failed with exit code {code}")
        lines = read_lines(self.timing_file(name))
        return [line for line in lines if line["round"] > 0]

    def timing_file(self, name: str) -> Path:
        """Return where a run writes its times."""
        return Path(self.keys["run.home"]) / "runs" / name / "timing.jsonl"

    def write_texts(self, folder: Path) -> dict[str, Any]:
        """Write what the example-style app reads, and return its run-config."""
        c, parts = self.config, self.parts
        data, rows = parts.data, []
        for client in sorted({client for cohort in self.cohorts for client in cohort}):
            owned = data.train[data.rows(data.number[client]).tolist()]
            texts = parts.tokenizer.batch_decode(owned["input_ids"], skip_special_tokens=True)
            labels = owned.get("label", [0] * len(texts))
            pairs = zip(texts, labels, strict=True)
            rows += [{"client": client, "text": text, "label": label} for text, label in pairs]
        pq.write_table(pa.Table.from_pylist(rows), folder / "texts.parquet")
        (folder / "cohorts.json").write_text(json.dumps(self.cohorts))
        return {
            "data": str(folder / "texts.parquet"),
            "cohorts": str(folder / "cohorts.json"),
            "source": parts.source,
            "labels": len(parts.labels),
            "rank": c.lora.rank,
            "alpha": c.lora.alpha,
            "dropout": c.lora.dropout,
            "targets": c.lora.targets,
            "max-tokens": c.task.max_tokens,
            "batch": c.client.batch,
            "steps": c.client.steps,
            "lr": c.client.lr,
            "momentum": c.client.momentum,
        }


def bench_s(context: Context, rounds: int) -> Setting:
    """Return bench-S with MiniLM."""
    keys = {
        "data.train": context.places["20newsgroups"],
        "model.source": context.places["minilm"],
        "run.home": str(context.folder / "home"),
    }
    short = {"client.steps": 3} if context.quick else {}
    return Setting(ROOT / "recipes" / "bench-s.toml", COMMON | keys | short, rounds)


def smollm2(context: Context, rounds: int) -> Setting:
    """Return next-token prediction with SmolLM2, one step a client."""
    keys = {
        "data.train": context.places["20newsgroups"],
        "model.source": context.places["smollm2"],
        "run.home": str(context.folder / "home"),
    }
    return Setting(ROOT / "recipes" / "shakespeare.toml", COMMON | SMALL | keys, rounds)
