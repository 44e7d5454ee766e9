"""What a job of a run holds in memory, and which classes of devices it does not fit into.

Shapes: B rows of a batch, T tokens of the longest row.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fedllm_app.client.gradient import Batch, mean_gradient
from fedllm_app.client.held import JobMemory, job_memory
from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError
from fedllm_app.core.plan import ClientPlan
from fedllm_app.core.region import Where, size_of
from fedllm_app.core.settings import Scalar
from fedllm_app.core.state import RunState
from fedllm_app.core.support import Draw, expand
from fedllm_app.core.units import format_bytes
from fedllm_app.data.federated import batches
from fedllm_app.data.settings import NODE
from fedllm_app.devices.fleet import Fleet
from fedllm_app.devices.profile import Profile
from fedllm_app.models.memory import StepMemory, shaped_config, shaped_model, step_memory
from fedllm_app.models.trainable import TrainableModel
from fedllm_app.parts import Parts
from fedllm_app.server.planning import Planner

log = logging.getLogger("fedllm")
Plan = tuple[ClientPlan, Where, Where]  # with what comes down and what may move
# Sections that what a step holds depends on.
READ = ("model.", "lora.", "client.", "task.")
LEAST_TOKENS = 16  # no shorter row is advised
MOST_TIERS = 32  # clients of one class that are looked at, whose tiers go by number


@dataclass
class Fitting:
    """Counts the jobs of a run and of others that differ from it in a few keys.

    Attributes
    ----------
    parts : data, tokenizer and task of the run; its model is not read.
    """

    parts: Parts
    _known: dict[object, StepMemory] = field(default_factory=dict)

    def job(
        self, c: RunConfig, plan: ClientPlan | None = None, down: Where = None, where: Where = None
    ) -> JobMemory:
        """Return what a job holds, on the longest rows that there are.

        Parameters
        ----------
        c : the run's own configuration, or one that differs in model, LoRA, batch or row length.
        plan : of the job; None sends and trains everything.
        down, where : the coordinates that come and that may move; None is all.

        Raises
        ------
        ConfigError
            If it cannot be counted from shapes.
        """
        plan = plan or ClientPlan()
        step = self._step(c, plan, None if plan.rank else where)
        P = step.trained
        if plan.rank:  # the device built the whole model, and keeps its first values
            P = self._step(c, ClientPlan(), None).trained
        return job_memory(step, c.client, plan, P, down, where)

    def most(self, c: RunConfig, plans: Iterable[Plan], whole: bool = False) -> JobMemory:
        """Return the job that holds most; `whole`: as if all were sent and trained."""
        jobs = (self.job(c, *(one[:1] if whole else one)) for one in plans)
        return max(jobs, key=lambda job: job.total)

    def _step(self, c: RunConfig, plan: ClientPlan, where: Where) -> StepMemory:
        lora = c.lora.model_copy(update={"rank": plan.rank or c.lora.rank})
        rows = plan.work.batch or c.client.batch
        moves = where.tobytes() if isinstance(where, np.ndarray) else where
        read = {key: value for key, value in c.flat().items() if key.startswith(READ)}
        key = (tuple(read.items()), lora.rank, rows, moves)
        if key not in self._known:
            parts, kind = self.parts, c.task.kind
            labels = parts.labels if kind.needs_labels else []
            config = shaped_config(parts.source, c.task.name, labels, parts.tokenizer)
            model = shaped_model(config, c.task.name, c.model, lora, c.client.autocast)
            settings, task = c.client, parts.task

            def step(shaped: TrainableModel, batch: Batch) -> None:
                """Pass a batch forward and back as local training does."""
                mean_gradient(
                    lambda part: (task.loss(shaped.logits(part), part), task.units(part)),
                    batch, shaped.grad, settings.micro_batch, settings.autocast,
                )  # fmt: skip

            batch = self.batch(rows, c.task.max_tokens)
            self._known[key] = step_memory(model, batch, step, where)
        return self._known[key]

    def batch(self, B: int, T: int) -> Batch:
        """Return the B longest rows of the training data, or of what is evaluated, cut to T."""
        data, kind = self.parts.data, self.parts.config.task.kind
        table = data.train if len(data.train) else data.evaluation
        if not len(table):
            raise ConfigError("the memory of a step cannot be counted: no example is known here")
        rows = table.longest(B)
        batch = next(iter(batches(table, rows, B, None, self.parts.task.collate, kind.packed)))
        if kind.images:
            return batch
        return {name: t[:, :T] if t.ndim > 1 else t for name, t in batch.items()}


def told(fitting: Fitting, profiles: Iterable[Profile]) -> str:
    """Return what a job that sends and trains everything holds, and into which it does not fit."""
    try:
        job = fitting.job(fitting.parts.config.resolved())
    except ConfigError as error:
        return f"What a job holds in memory is not known: {error}."
    said = f"A job holds at most {format_bytes(job.total)} in memory ({shown(job)})"
    small = [f"{p.name} ({format_bytes(p['memory'])})" for p in profiles if p["memory"] < job.total]
    return f"{said}; too much for {', '.join(small)}." if small else f"{said}."


def refuse_too_small(
    fitting: Fitting, planner: Planner, state: RunState, params_P: np.ndarray, fleet: Fleet
) -> None:
    """Refuse a run whose jobs do not fit into the memory of a class of its fleet.

    Parameters
    ----------
    planner, state, params_P : of the run: a class may have a job of its own, by its tier.

    Raises
    ------
    ConfigError
        With what each such class needs and has, and with what would fit.
    """
    c = fitting.parts.config
    names = fleet.present(fitting.parts.counts() if c.data.train != NODE else ())
    plans = _plans(planner, state, params_P, fleet, names)
    try:
        held = {name: fitting.most(c, own) for name, own in plans.items()}
    except ConfigError as error:
        log.warning("whether a job fits into the memory of devices.fleet is not known: %s", error)
        return
    small = {n: one for n, one in held.items() if one.total > fleet.profiles[n]["memory"]}
    if not small:
        return
    most = max(small.values(), key=lambda one: one.total)
    told = "; ".join(
        f"{name} needs {format_bytes(one.total)} and has "
        f"{format_bytes(fleet.profiles[name]['memory'])}"
        for name, one in small.items()
    )
    raise ConfigError(
        f"devices.fleet has classes without the memory for a job: {told} ({shown(most)}). "
        f"{_advice(fitting, {name: plans[name] for name in small}, fleet)}"
    )


def _plans(
    planner: Planner, state: RunState, params_P: np.ndarray, fleet: Fleet, names: list[str]
) -> dict[str, list[Plan]]:
    """Return the plans that devices of each class may have in the next round."""
    one = len(fleet.order) == 1  # then tiers go by the client
    asked = [str(number) for number in range(MOST_TIERS)] if one else names
    tiers = planner.tiers if one else fleet.tier_of
    asking = replace(planner, tiers=tiers, spoken=None, balance=None)
    profiles = {client: {"class": names[0] if one else client} for client in asked}
    planned = asking.plan(state, params_P, asked, profiles, len(asked))
    found: dict[str, dict[object, Plan]] = {name: {} for name in names}
    for client in asked:
        group = planned.plan.group_of[client]
        plan = planned.plan.groups[group]
        draw = Draw(planner.seed, planned.inputs.job, group, client)
        down = expand(plan.down, planner.layout, replace(draw, client=None))
        where = expand(plan.train, planner.layout, draw)
        size = size_of(where, planner.layout.size)
        found[str(profiles[client]["class"])][plan.rank, size] = (plan, down, where)
    return {name: [*own.values()] for name, own in found.items()}


def _advice(fitting: Fitting, plans: Mapping[str, list[Plan]], fleet: Fleet) -> str:
    """Return the first setting with which jobs fit into all of these classes, in a sentence."""
    tried = []
    ranks = any(plan.rank for own in plans.values() for plan, _, _ in own)
    for change in _changes(fitting.parts.config, ranks):
        words = ", ".join(f"{key} = {str(value).lower()}" for key, value in change.items())
        tried.append(words)
        try:
            c = RunConfig.parse(fitting.parts.config.flat() | change)
            # Another rank is another layout, in which these coordinates mean nothing.
            whole = "lora.rank" in change
            jobs = {name: fitting.most(c, own, whole) for name, own in plans.items()}
        except ConfigError:  # not legal beside the other settings
            continue
        if all(job.total <= fleet.profiles[n]["memory"] for n, job in jobs.items()):
            most = max(job.total for job in jobs.values())
            return f"It fits with {words}: {format_bytes(most)}"
    return (
        f"None of these fits either: {'; '.join(tried)}. Expected a smaller model, or a fleet "
        "without these classes"
    )


def _changes(c: RunConfig, ranks: bool) -> Iterator[dict[str, Scalar]]:
    """Yield settings that need less and less; the first ones change no gradient.

    Parameters
    ----------
    ranks : devices hold ranks of their own, so that a lower one is no help.
    """
    change: dict[str, Any] = {}
    rows = c.client.micro_batch or c.client.batch
    while rows > 1:
        rows //= 2
        yield {"client.micro-batch": rows}
        change["client.micro-batch"] = rows
    if not c.model.checkpointing:
        yield {"model.checkpointing": True}
        change["model.checkpointing"] = True
        yield dict(change)
    rank = c.lora.rank if c.model.train == "lora" and not ranks else 1
    while rank > 1:
        rank //= 2
        change |= {"lora.rank": rank, "lora.alpha": c.lora.alpha * rank / c.lora.rank}
        yield dict(change)
    tokens = c.task.max_tokens
    while not c.task.kind.images and tokens >= 2 * LEAST_TOKENS:
        tokens //= 2
        change["task.max-tokens"] = tokens
        yield dict(change)


def shown(job: JobMemory) -> str:
    """Return the parts of a job's memory in words, those that take nothing left out."""
    parts = (f"{name} {format_bytes(size)}" for name, size in job.parts().items() if size)
    return ", ".join(parts)
