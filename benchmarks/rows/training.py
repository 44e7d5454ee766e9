"""Training and whole rounds beside a bare PEFT loop and two styles of simulation.

Shapes: none; all figures are seconds, examples a second, or MB.
"""

from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.peers import bare, flasc_style, flower_app
from benchmarks.rows import memory
from benchmarks.rows.row import Context, Row, alternately, ratio_of, threads
from benchmarks.rows.setting import Setting, bench_s, smollm2
from benchmarks.studies.overhead import WORKERS, peak_memory
from fedllm_app.client.kept import Kept
from fedllm_app.client.train import train
from fedllm_app.core.job import Job
from fedllm_app.core.plan import ClientPlan
from fedllm_app.core.seeds import seed_torch

EXAMPLES = 96  # of the client whose training alone is measured, about
LOCAL = "local training of one client"
WHOLE = "whole simulated rounds of bench-S, 2 workers"
MEMORY = "memory of a worker"
SMALL_ROUNDS = 3


def measure(context: Context) -> list[Row]:
    """Return all rows of the group."""
    lacking = context.lacks("20newsgroups", "minilm")
    names = [f"the same against {style}, MiniLM" for style in ("FLASC-style", "example-style")]
    if lacking:
        return [Row(what=what, skipped=lacking) for what in (LOCAL, WHOLE, *names, MEMORY)]
    setting = bench_s(context, 2 if context.quick else 6)
    inputs = setting.inputs()
    file = inputs.save(context.folder / "inputs.pt")
    rows = [local_row(setting, inputs, 3 if context.quick else 10)]
    with peak_memory() as peaks:
        timing = setting.run("ours")
    rows += whole_rows(setting, inputs, file, timing)
    rows += style_rows(context, setting, timing, "MiniLM")
    rows.append(memory_row(context, setting, file, peaks["worker"]))
    return rows + smollm2_rows(context)


def smollm2_rows(context: Context) -> list[Row]:
    """Return the rows of SmolLM2."""
    skipped = context.lacks("20newsgroups", "smollm2") or ("--quick" if context.quick else "")
    if skipped:
        styles = ("FLASC-style", "example-style")
        return [Row(what=f"the same against {s}, SmolLM2", skipped=skipped) for s in styles]
    setting = smollm2(context, SMALL_ROUNDS)
    _ = setting.cohorts  # prepares the data, which our run then finds
    return style_rows(context, setting, setting.run("ours-smollm2"), "SmolLM2")


def local_row(setting: Setting, inputs: bare.Inputs, repeats: int) -> Row:
    """Compare one client's training; ours reads and collates its batches, theirs are ready."""
    device, counts = setting.device, setting.parts.counts()
    names = [(t, c) for t, cohort in enumerate(setting.cohorts, 1) for c in cohort]
    t, client = min(names, key=lambda name: abs(counts[name[1]] - EXAMPLES))
    batches, job = inputs.clients[f"{t}/{client}"], Job(t, client)
    losses: dict[str, float] = {}

    def ours() -> None:
        device.model.load(device.initial)
        metrics = train(device, job, ClientPlan(), None, Kept(), {}).metrics
        losses["ours"] = metrics.loss_sum / metrics.units

    with threads(1):
        model = bare.build(inputs)
        start = [p.detach().clone() for p in bare.trainable(model)]

        def theirs() -> None:
            with torch.no_grad():
                for parameter, value in zip(bare.trainable(model), start, strict=True):
                    parameter.copy_(value)
            seed_torch(device.seed, "train", job.id, job.client)
            losses["bare"] = bare.train(model, batches, inputs.lr, inputs.momentum)

        own, other = alternately(repeats, ours, theirs)
    examples = sum(len(batch["labels"]) for batch in batches)
    return Row(
        what=LOCAL,
        measured=examples / median(own),
        unit="examples/s",
        peer="bare PEFT loop",
        theirs=examples / median(other),
        judged=ratio_of(other, own),
        about="of its speed",
        target=("at least", 0.97),
        details={
            "examples": examples,
            "batches": len(batches),
            "threads": 1,
            "loss": losses,
            "loss-difference": abs(losses["ours"] - losses["bare"]),
            "seconds": {"ours": own, "bare": other},
            "note": "the same values, batches and seed of dropout; ours also reads and collates",
        },
    )


def round_seconds(timing: list[dict[str, Any]]) -> list[float]:
    """Return the seconds of our rounds from 2, without the evaluation that ends a run."""
    return [line["seconds"] - line["parts"]["evaluate"] for line in timing[1:]]


def whole_rows(
    setting: Setting, inputs: bare.Inputs, file: Path, timing: list[dict[str, Any]]
) -> list[Row]:
    """Compare whole rounds with two bare loops over the same clients.

    One is what a person writes first: a process with as many torch threads as there are cores. The
    other is the most that two cores can do: a process for each, fed the next client when idle.
    """
    own = round_seconds(timing)
    with threads(1):
        one = bare.rounds_in_one(inputs, setting.names, WORKERS)[1:]
        many = bare.rounds_in_many(file, setting.names, WORKERS)[1:]
    examples = [sum(setting.parts.counts()[c] for c in cohort) for cohort in setting.cohorts]
    return [
        Row(
            what=what,
            measured=median(own),
            unit="s/round",
            peer=f"bare loop, {kind}",
            theirs=median(theirs),
            judged=sum(theirs) / sum(own),
            about="times as fast",
            target=("at least", 1.0),
            details={
                "ours-s": own,
                "theirs-s": theirs,
                "examples": examples[1:],
                "client-train-s": [line["client-train-s"] for line in timing[1:]],
                "parts-s": [line["parts"] for line in timing[1:]],
                "note": "the bare loops find their batches collated in memory",
            },
        )
        for what, kind, theirs in (
            (WHOLE, "one process, 2 threads", one),
            (f"{WHOLE}, the hardest peer", "two processes, 1 thread", many),
        )
    ]


def style_rows(
    context: Context, setting: Setting, timing: list[dict[str, Any]], model: str
) -> list[Row]:
    """Compare whole rounds with the two styles of simulation."""
    c, own = setting.config, round_seconds(timing)
    padded = setting.inputs(c.task.max_tokens)
    densities = (c.strategy.d_down, c.strategy.d_up)
    with threads(1):
        flasc = {
            count: flasc_style.rounds(padded, setting.names, densities=densities, threads=count)[1:]
            for count in ((WORKERS,) if context.quick else (WORKERS, 1))
        }
    # Threads that wait for each other suffer most where other work shares the cores.
    best = min(flasc, key=lambda count: median(flasc[count]))
    kinds = {f"FLASC-style, {best} threads": flasc[best]}
    if not context.quick:
        keys, nodes = setting.write_texts(context.folder), len(setting.cohorts[0])
        played = flower_app.play("example_style", keys, nodes=nodes, folder=context.folder)
        kinds["example-style"] = played.rounds[1:]
    rows = [
        Row(
            what=f"the same against {style.partition(',')[0]}, {model}",
            measured=median(own),
            unit="s/round",
            peer=style,
            theirs=median(seconds),
            judged=median(seconds) / median(own),
            about="times as fast",
            details={
                "ours-s": own,
                "theirs-s": seconds,
                "flasc-s-by-threads": flasc,
                "settings": setting.config.flat(),
            },
        )
        for style, seconds in kinds.items()
    ]
    if context.quick:
        rows.append(Row(what=f"the same against example-style, {model}", skipped="--quick"))
    return rows


def memory_row(context: Context, setting: Setting, file: Path, worker_mb: float) -> Row:
    """Compare a Ray worker with a process that holds backbone, adapter and activations alone."""
    config = context.folder / "config.toml"
    config.write_text(setting.config.toml())
    found = memory.of_bare(file)
    details: dict[str, Any] = {"bare": found}
    if not context.quick:
        details["imports-mb"] = memory.of_imports()
        details["clients-mb"] = memory.of_clients(config, 8)
    return Row(
        what=MEMORY,
        measured=worker_mb,
        unit="MB",
        peer="bare PEFT process",
        theirs=found["peak-rss-mb"],
        judged=worker_mb / found["peak-rss-mb"],
        target=("at most", 1.15),
        details=details,
    )
