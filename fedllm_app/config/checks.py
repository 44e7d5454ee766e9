"""What is wrong between keys that are legal each by itself; one sentence for each."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_app.config.of_method import of_aggregate, of_strategy
from fedllm_app.config.of_model import of_lora, of_model
from fedllm_app.config.of_pacing import of_pacing
from fedllm_app.config.of_reading import of_measured, of_reading
from fedllm_app.config.of_rule import of_rule
from fedllm_app.core.errors import ConfigError, DataError
from fedllm_app.core.extend import load
from fedllm_app.core.schedule import schedule_problems
from fedllm_app.data.formats import SUFFIXES, is_encoding
from fedllm_app.data.labels import fixed_labels
from fedllm_app.data.own import is_own, is_there
from fedllm_app.data.partition import BY_LABEL, law_of
from fedllm_app.data.settings import TEXTS, DataSettings
from fedllm_app.data.source import dataset_function
from fedllm_app.data.templates import template_problem
from fedllm_app.devices.fleet import paths_in
from fedllm_app.devices.network import network_problems
from fedllm_app.models.settings import BACKBONES, TRAIN
from fedllm_app.server.methods import method_of
from fedllm_app.server.settings import DEFAULT_LR
from fedllm_app.tasks.base import TaskKind
from fedllm_app.tasks.instruction import RESPONSES

if TYPE_CHECKING:
    from fedllm_app.config import RunConfig

PATH_KEYS = (
    "run.home", "data.train", "data.test", "model.source", "model.tokenizer", "network.file",
    "compute.file", "devices.file", "devices.files",
)  # fmt: skip
# Always a path, never a hub name.
LOCAL_KEYS = ("run.home", "network.file", "compute.file", "devices.file", "devices.files")
LIST_KEYS = ("devices.files",)  # several paths, with commas between them
FILE_SUFFIXES = (*SUFFIXES, ".gguf")


def cross_check(c: "RunConfig") -> Iterator[str]:
    """Yield what is wrong between keys that are legal each by itself."""
    try:
        method = method_of(c.strategy.name)
    except ConfigError as error:
        yield str(error)
        method = method_of("dense")
    else:
        yield from of_strategy(c, method)
    server = c.server.resolved(method.server)
    if server.nesterov and (server.optimizer != "sgd" or not server.momentum):
        yield (
            f"server.nesterov is True with server.optimizer = {server.optimizer!r} and "
            f"server.momentum = {server.momentum!r}; expected 'sgd' and a momentum above 0"
        )
    decay = method.filled(c.strategy).feedback_decay
    always = "feedback-decay" in method.keys and "error-feedback" not in method.keys
    for key, keeps in (
        ("client.keep-optimizer", c.client.keep_optimizer),
        ("strategy.error-feedback", c.strategy.error_feedback),
        ("strategy.feedback-decay", decay if always else 0),
        ("strategy.fragments", c.strategy.fragments if "fragments" in method.keys else 0),
        ("strategy.down-history", c.strategy.down_history),
    ):
        if keeps and not c.run.name:
            yield (
                f"{key} is {keeps!r} with run.name = ''; expected a name, by which a device finds "
                "what it kept"
            )
    yield from of_aggregate(c, method)
    yield from of_rule(c, method)
    simulated = c.data.train != "node"
    yield from _of_modules(c, simulated)
    try:
        kind = c.task.kind
    except ConfigError as error:
        yield str(error)
    else:
        yield from _of_task(c, kind, simulated)
        yield from of_model(c, kind, simulated)
        yield from of_lora(c, method.keys)
        yield from of_reading(c, kind)
        yield from of_measured(c, kind)
    yield from _of_data(c.data)
    yield from network_problems(c.network)
    yield from _of_extensions(c)
    yield from of_pacing(c)
    yield from _relative_paths(c)


def _of_data(data: DataSettings) -> Iterator[str]:
    """Yield what is wrong with how files are read and labels are named."""
    if not is_encoding(data.encoding):
        yield (
            f"data.encoding is {data.encoding!r}, which Python does not know; expected for example "
            "utf-8, latin-1 or cp1252"
        )
    if data.delimiter not in ("", "tab") and (
        len(data.delimiter) > 1 or data.delimiter in '\r\n"\0'
    ):
        yield f'data.delimiter is {data.delimiter!r}; expected one character, such as ";", or "tab"'
    try:
        fixed = fixed_labels(data)
    except DataError as error:
        yield str(error)
    else:
        if data.label_numbers == "positions" and not fixed:
            yield "data.label-numbers is 'positions' with data.labels = ''; expected names there"
    if data.test_split == data.train_split and not data.test and not is_own(data.train):
        yield (
            f"data.test-split is {data.test_split!r}, which is data.train-split: the model would "
            "be measured on what it is trained on; expected another split"
        )


def _of_extensions(c: "RunConfig") -> Iterator[str]:
    """Yield what is wrong with schedules, and with an optimizer of your own."""
    yield from schedule_problems("client", c.client)
    yield from schedule_problems("server", c.server)
    if ":" in c.server.optimizer:
        try:
            load("server.optimizer", c.server.optimizer, callable, list(DEFAULT_LR))
        except ConfigError as error:
            yield str(error)


def _of_task(c: "RunConfig", kind: TaskKind, simulated: bool) -> Iterator[str]:
    """Yield what is wrong between a task, its data, its model and its method."""
    metrics, name = kind.metric_names, c.task.name
    if c.round.target_metric and c.round.target_metric not in metrics:
        yield f"round.target-metric is {c.round.target_metric!r}; expected one of {metrics}"
    if c.partition.name in BY_LABEL and simulated:
        yield from _of_dirichlet(c, kind)
    if not kind.has_head and c.model.train == "head":
        yield f"model.train is 'head'; task.name {name!r} has no head of its own"
    if not kind.has_head and c.strategy.head == "whole":
        yield f"strategy.head is 'whole'; task.name {name!r} has no head of its own"
    if problem := template_problem(c.model.chat_template):
        yield problem
    if kind.chat and c.model.tokenizer == TRAIN:
        yield (
            f"model.tokenizer is 'train' with task.name = {name!r}, whose rows are no plain text; "
            "expected the folder or hub name of a tokenizer"
        )
    if not kind.chat:
        asked: dict[str, object] = {"packing": c.task.packing, "generate": c.task.generate}
        asked |= {"loss-on": c.task.loss_on} if c.task.loss_on != RESPONSES else {}
        for field, asks in asked.items():
            if asks:
                yield f"task.{field} is {asks!r}, which task.name = {name!r} does not read"
    if not kind.embedded:
        for key, value, table in _embedded(c):
            if value in table:
                yield f"{key} is {value!r}, which is text for other tasks; task.name is {name!r}"
    needs_labels = not simulated and kind.needs_labels
    if needs_labels and not c.data.labels:
        yield (
            "data.labels is '' with data.train = 'node'; expected a count or names, since no "
            "device sees the labels of all"
        )


def _of_dirichlet(c: "RunConfig", kind: TaskKind) -> Iterator[str]:
    """Yield what is wrong with the column that a Dirichlet partition divides."""
    law, by, name = c.partition.name, c.partition.by, c.task.name
    if by == "label" and not kind.needs_labels:
        yield f"partition.by is {by!r}, which needs labels; task.name {name!r} has none"
    elif (by == "domain" or not kind.needs_labels) and not kind.domains:
        automatic = "partition.by is 'domain'" if by else f"partition.name is {law!r}"
        yield (
            f"{automatic}, which needs {'domains' if by else 'labels or domains'}; "
            f"task.name {name!r} has none"
        )


def _embedded(c: "RunConfig") -> tuple[tuple[str, str, dict[str, str]], ...]:
    """Return the keys that may name what is built in, with their values and legal entries."""
    return (
        ("data.train", c.data.train, TEXTS),
        ("data.test", c.data.test, TEXTS),
        ("model.source", c.model.source, BACKBONES),
    )


def _of_modules(c: "RunConfig", simulated: bool) -> Iterator[str]:
    """Yield what is wrong with names that stand for modules.

    A device reads neither data.test nor partition.name, and so imports nothing for them.
    """
    for key, value, table in _embedded(c):
        if value in table and not is_there(table[value]):
            yield (
                f"{key} is {value!r}, which comes with the demonstration, and that is not "
                "installed; set it to one of your own"
            )
    name = c.partition.name
    checks: list[tuple[Callable[[], object], bool]] = [
        (lambda: law_of(name), simulated or not is_own(name)),
        (lambda: dataset_function("data.train", c.data.train), is_own(c.data.train)),
        (lambda: dataset_function("data.test", c.data.test), simulated and is_own(c.data.test)),
    ]
    for check, asked in checks:
        try:
            _ = check() if asked else None
        except ConfigError as error:
            yield str(error)


def _relative_paths(c: "RunConfig") -> Iterator[str]:
    values = c.flat()
    for key in PATH_KEYS:
        several = key in LIST_KEYS
        for value in paths_in(str(values[key])) if several else [str(values[key])]:
            local = key in LOCAL_KEYS or value.startswith((".", "~"))
            local = local or value.endswith(FILE_SUFFIXES)
            if value and local and not Path(value).is_absolute():
                has = "has" if several else "is"
                yield (
                    f"{key} {has} {value!r}; expected an absolute path: the run's folder is "
                    "anybody's"
                )
