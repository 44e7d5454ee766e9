"""Which keys of a run-config its run does not read: a difference between them is none.

A key that is not told of here counts as read.
"""

from collections.abc import Iterator, Mapping

from fedllm_app.client.settings import STREAM
from fedllm_app.config import RunConfig
from fedllm_app.config.of_method import read_keys
from fedllm_app.core.errors import ConfigError
from fedllm_app.core.settings import Scalar, kebab
from fedllm_app.data.partition import BY_LABEL, BY_USER, TO_CLIENTS
from fedllm_app.models.settings import TRAIN
from fedllm_app.server.settings import ADAPTIVE, DELAYED
from fedllm_app.tasks import CHAT_KEYS
from fedllm_app.tasks.base import TaskKind

PLAIN = ("fp32", "fp16", "bf16")  # value types without blocks


def unread_keys(flat: Mapping[str, Scalar]) -> frozenset[str]:
    """Return the keys that a run of this configuration does not read; none where it is not ours.

    Parameters
    ----------
    flat : run-config by dotted key, as in a run's config.toml.
    """
    try:
        config = RunConfig.parse(flat)
        return frozenset(_unread(config.resolved(), config.task.kind))
    except ConfigError:  # of another version, or of a module that is not here
        return frozenset()


def _unread(c: RunConfig, kind: TaskKind) -> Iterator[str]:
    read = {"name", *read_keys(c)}
    yield from (f"strategy.{kebab(k)}" for k, _ in c.strategy if kebab(k) not in read)
    yield from _of_data(c, kind)
    yield from _of_optimizers(c)
    yield from _of_model(c)
    if c.model.train != "lora":
        yield from (f"lora.{kebab(k)}" for k, _ in c.lora)
    if not c.network.on:
        yield from (f"network.{kebab(k)}" for k, _ in c.network)
    if c.wire.up_values in PLAIN and c.wire.down_values in PLAIN:
        yield "wire.block"
    if c.wire.up_values in PLAIN:
        yield "strategy.rounding"
    if not c.round.target:
        yield "round.target-metric"
    if c.round.clip != "auto":
        yield "round.clip-factor"
    if c.round.clip == "off":
        yield "round.clip-action"
    if c.round.aggregate != "trimmed-mean":
        yield "round.trim"


def _of_data(c: RunConfig, kind: TaskKind) -> Iterator[str]:
    own = ":" in c.partition.name  # a law of one's own may read whatever it likes
    if c.data.train == "node":
        yield from (f"partition.{kebab(k)}" for k, _ in c.partition)
    if c.partition.name not in TO_CLIENTS and not own:
        yield "partition.clients"
    if c.partition.name not in (*BY_LABEL, "mixture") and not own:
        yield "partition.alpha"
    if c.partition.name not in BY_LABEL and not own:
        yield "partition.by"
    domains = (c.partition.name in BY_LABEL, c.round.evaluate_clients)
    if not (kind.domains and any(domains)) and not own:
        yield "data.domain-column"
    if c.partition.name not in BY_USER and not own:
        yield "data.user-column"
    if not kind.packed or kind.whole_rows:
        yield "data.documents"
    if not kind.chat:
        yield from (f"task.{key}" for key in CHAT_KEYS)
        yield from ("data.instruction-column", "data.input-column", "data.response-column")
        yield "model.chat-template"
    elif not c.task.generate:
        yield from ("task.generate-tokens", "task.generate-at")
    if kind.images:
        yield from ("data.text-column", "data.strip", "task.max-tokens", "model.tokenizer")
    else:
        yield from ("data.image-column", "data.image-side")
    if not kind.needs_labels:
        yield from ("data.labels", *([] if own else ["data.label-column"]))
    if c.data.test and c.data.evaluate_on == "test":
        yield "data.holdout"


def _of_model(c: RunConfig) -> Iterator[str]:
    if c.model.tokenizer != TRAIN:
        yield "model.vocabulary"
    if c.model.scratch:
        yield from ("model.init", "model.dtype")


def _of_optimizers(c: RunConfig) -> Iterator[str]:
    for section, settings in (("client", c.client), ("server", c.server)):
        name = settings.optimizer
        if ":" not in name:
            moments = name in ("adam", "adamw", *ADAPTIVE)
            yield from () if moments else (f"{section}.beta1",)
            yield from () if moments and name != "fedadagrad" else (f"{section}.beta2",)
            yield from () if moments or name == "adagrad" else (f"{section}.eps",)
            yield from () if name in ("sgd", DELAYED) else (f"{section}.momentum",)
            yield from () if name == "sgd" else (f"{section}.nesterov",)
        if settings.schedule == "constant":
            yield from (f"{section}.schedule-steps", f"{section}.lr-floor")
        if settings.schedule != "wsd":
            yield f"{section}.decay-share"
    if c.server.optimizer != DELAYED and ":" not in c.server.optimizer:
        yield "server.momentum-period"
    if not c.client.weight_decay:
        yield "client.decay-all"
    if not c.client.rule:
        yield "client.rule-args"
    if c.client.steps:
        yield "client.epochs"
    if c.reading != STREAM:
        yield "client.stream-end"
