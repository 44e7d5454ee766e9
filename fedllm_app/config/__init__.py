"""The run-config: every namespace assembled from its owner, checked whole, and printed.

Flower hands over a flat table of scalars and checks no types. Here each key is typed and ranged
by the part that reads it, then cross-checked; all errors are reported at once, before anything is
loaded, each naming the key, the value and what is legal.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import tomli_w
from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from fedllm_app.client.settings import STREAM, ClientSettings
from fedllm_app.config.checks import cross_check
from fedllm_app.config.of_method import unused_keys
from fedllm_app.core.errors import ConfigError
from fedllm_app.core.settings import Scalar, Settings, flatten, kebab
from fedllm_app.data.partition import PartitionSettings
from fedllm_app.data.settings import DataSettings
from fedllm_app.devices.compute import ComputeSettings
from fedllm_app.devices.fleet import DeviceSettings
from fedllm_app.devices.network import NetworkSettings, automatic_words
from fedllm_app.models.settings import LoraSettings, ModelSettings
from fedllm_app.run.settings import RoundSettings, RunSettings
from fedllm_app.server.methods import method_of
from fedllm_app.server.methods.settings import StrategySettings
from fedllm_app.server.methods.shares import shrinking
from fedllm_app.server.settings import ServerSettings
from fedllm_app.tasks import TaskSettings
from fedllm_app.wire.codec import WireSettings


class RunConfig(Settings):
    """The validated configuration of one run: one section per namespace."""

    run: RunSettings = Field(default_factory=RunSettings)
    task: TaskSettings = Field(default_factory=TaskSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    partition: PartitionSettings = Field(default_factory=PartitionSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    lora: LoraSettings = Field(default_factory=LoraSettings)
    client: ClientSettings = Field(default_factory=ClientSettings)
    server: ServerSettings = Field(default_factory=ServerSettings)
    strategy: StrategySettings = Field(default_factory=StrategySettings)
    wire: WireSettings = Field(default_factory=WireSettings)
    network: NetworkSettings = Field(default_factory=NetworkSettings)
    compute: ComputeSettings = Field(default_factory=ComputeSettings)
    devices: DeviceSettings = Field(default_factory=DeviceSettings)
    round: RoundSettings = Field(default_factory=RoundSettings)

    @classmethod
    def parse(cls, flat: Mapping[str, Scalar]) -> "RunConfig":
        """Return the configuration of a flat table such as {"strategy.d-up": 0.25}.

        Raises
        ------
        ConfigError
            With one line per wrong key; none is left for the next try.
        """
        nested: dict[str, dict[str, Scalar]] = {}
        for key, value in flat.items():
            section, _, name = key.partition(".")
            nested.setdefault(section, {})[name] = value
        problems, config = [], None
        try:
            config = cls.model_validate(nested)
        except ValidationError as error:
            problems += [explain(details) for details in error.errors()]
        # Cross-checks read only what is legal by itself; the rest stands at its default.
        legal = config or cls.model_validate(_legal(nested))
        problems += [p for p in cross_check(legal) if config or not _mentions(p, problems)]
        if problems or config is None:
            raise ConfigError("\n".join(problems))
        return config

    def flat(self) -> dict[str, Scalar]:
        """Return every key with its value, by dotted name."""
        return {
            f"{kebab(section)}.{kebab(name)}": value
            for section, settings in self
            for name, value in settings
        }

    def toml(self) -> str:
        """Return the configuration as a run-config file."""
        return tomli_w.dumps(
            {
                kebab(section): {kebab(name): value for name, value in settings}
                for section, settings in self
            }
        )

    def resolved(self) -> "RunConfig":
        """Return the configuration with the automatic values of server and strategy filled in.

        Raises
        ------
        ConfigError
            If there is no such method.
        """
        method = method_of(self.strategy.name)
        strategy: dict[str, Any] = {}
        if "decay" in method.keys and not self.strategy.decay:
            strategy["decay"] = shrinking(self.strategy.density, self.run.rounds)
        return self.model_copy(
            update={
                "server": self.server.resolved(method.server),
                "strategy": method.filled(self.strategy).model_copy(update=strategy),
                "network": self.network.resolved(),
                "round": self.round.resolved(method.weights),
                "client": self.local.model_copy(update={"reading": self.reading}),
            }
        )

    @property
    def reading(self) -> str:
        """How clients go through their examples, "epochs" or "stream"."""
        kind = self.task.kind
        streamed = kind.packed and not kind.whole_rows
        return self.client.reading or (STREAM if streamed else "epochs")

    @property
    def local(self) -> ClientSettings:
        """Local training, with the rule that the method is defined with where it is automatic.

        Raises
        ------
        ConfigError
            If there is no such method.
        """
        rule = self.client.rule or method_of(self.strategy.name).rule
        return self.client.model_copy(update={"rule": rule})

    def summary(self, resolved: "RunConfig | None" = None) -> str:
        """Return the resolved settings as a small tree; what was automatic says what it became.

        Below it, what the method does not read of what was set.

        Parameters
        ----------
        resolved : what the run goes by; None takes `resolved()`.
        """
        after = (resolved or self.resolved()).flat()
        before, section, words = self.flat(), "", automatic(self)
        lines = [""]
        for key, value in after.items():
            head, _, name = key.partition(".")
            if head != section:
                lines.append(f"├── {head}")
                section = head
            became = f" (automatic: {words[key]})" if not value and key in words else ""
            became = f" (automatic, was {before[key]!r})" if before[key] != value else became
            lines.append(f"│   ├── {name} = {value!r}{became}")
        if told := [
            f"strategy.{kebab(k)} = {getattr(self.strategy, k)!r}" for k in unused_keys(self)
        ]:
            lines.append(f"Not read by {self.strategy.name}: {', '.join(told)}")
        return "\n".join(lines)


def automatic(c: RunConfig) -> dict[str, str]:
    """Return what the keys become that other parts fill in where they are "" or 0."""
    words = {
        "run.name": f"{c.strategy.name} and the time",
        "run.home": str(Path.home() / ".fedllm"),
        "data.test": "the source's own, else data.holdout of data.train",
        "data.labels": "those of the data",
        "data.eval-examples": "all",
        "model.tokenizer": c.model.source,
        "client.threads": "the CPUs it was given",
        "round.target-metric": c.task.kind.headline,
    } | automatic_words(c.network)
    if c.task.kind.images:
        return words | {"data.image-side": "the model's own", "model.tokenizer": "none"}
    return words


def read_recipe(path: Path) -> dict[str, Scalar]:
    """Return a run-config file as a flat table.

    Raises
    ------
    ConfigError
        If it is not TOML.
    """
    try:
        return flatten(tomllib.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a run-config: {error}") from None


def check_listed(app: Path, keys: Iterable[str]) -> None:
    """Refuse keys of a run that an app's pyproject.toml does not list.

    Flower takes no others, and refuses one with "[code: 15]" alone.

    Parameters
    ----------
    app : folder with pyproject.toml.
    keys : by dotted name.

    Raises
    ------
    ConfigError
        Names the keys that are missing, and the lines to add.
    """
    file = app / "pyproject.toml"
    try:
        found = tomllib.loads(file.read_text("utf-8"))
        listed = flatten(found["tool"]["flwr"]["app"]["config"])
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{file} has no section [tool.flwr.app.config] that can be read ({error}); "
            "`fedllm keys --toml` prints it"
        ) from None
    if missing := [key for key in keys if key not in listed]:
        defaults = RunConfig().flat()
        lines = ", ".join(f"{key} = {json.dumps(defaults.get(key, ''))}" for key in missing)
        raise ConfigError(
            f"{file} lacks {lines} in [tool.flwr.app.config], and Flower refuses a run with a key "
            "that is not there; add it, or replace the section by what `fedllm keys --toml` prints"
        )


def keys_toml() -> str:
    """Return [tool.flwr.app.config] of pyproject.toml: every key, its default and its meaning."""
    lines, section = [], ""
    for key, value in RunConfig().flat().items():
        head, _, name = key.partition(".")
        if head != section:
            lines.append(f"\n[tool.flwr.app.config.{head}]")
            section = head
        lines += [f"# {describe(key)}", f"{name} = {json.dumps(value)}"]
    return "\n".join(lines).lstrip() + "\n"


def describe(key: str) -> str:
    """Return the sentence that says what a key means."""
    return str(_fields(key)[_field(key)].description)


def is_text(key: str) -> bool:
    """Say whether a key holds free text; one that does not exist holds none."""
    fields, name = _fields(key), _field(key)
    return name in fields and fields[name].annotation is str


def _fields(key: str) -> dict[str, FieldInfo]:
    """Return the fields of a key's namespace, {} where there is no such namespace."""
    section = RunConfig.model_fields.get(key.partition(".")[0])
    return cast(Any, section.annotation).model_fields if section else {}


def _field(key: str) -> str:
    """Return the name of a key's field."""
    return key.partition(".")[2].replace("-", "_")


def explain(details: ErrorDetails) -> str:
    """Return one line for one of pydantic's errors: key, value, what is legal, what it means."""
    key = ".".join(str(part) for part in details["loc"])
    value = details["input"]
    if details["type"] == "extra_forbidden":
        section = str(details["loc"][0])
        known = RunConfig.model_fields.get(section)
        if known is None or known.annotation is None:
            given = ", ".join(f"{section}.{k}".rstrip(".") + f" is {v!r}" for k, v in value.items())
            return f"{given}: unknown namespace; expected one of {sorted(RunConfig.model_fields)}"
        names = [kebab(name) for name in known.annotation.model_fields]
        return f"{key} is {value!r}: unknown key; {section} has {', '.join(names)}"
    expected = details["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    expected = expected.removeprefix("a valid ").replace("''", '"" (automatic)')
    return f"{key} is {value!r}; expected {expected}. {describe(key)}"


def _legal(nested: Mapping[str, Mapping[str, Scalar]]) -> dict[str, dict[str, Scalar]]:
    """Return the part of a table that passes the checks of its own section, key by key."""
    kept: dict[str, dict[str, Scalar]] = {}
    for section, field in RunConfig.model_fields.items():
        assert field.annotation is not None
        for name, value in nested.get(section, {}).items():
            try:
                field.annotation.model_validate({name: value})
            except ValidationError:
                continue
            kept.setdefault(section, {})[name] = value
    return kept


def _mentions(problem: str, problems: list[str]) -> bool:
    """Say whether a cross-check only repeats what is wrong with one of its keys."""
    wrong = {text.split(" is ")[0].split(":")[0] for text in problems}
    return any(key in problem for key in wrong)
