"""Where one process of a run may read and write; a device's own paths are in its node-config."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError


@dataclass(frozen=True)
class Place:
    """Where one process may read and write.

    Attributes
    ----------
    home : folder of caches and runs.
    data, model, tokenizer : a device's own files, in place of the run-config's.
    client : a device's own id.
    """

    home: Path
    data: str = ""
    model: str = ""
    tokenizer: str = ""
    client: str = ""

    @classmethod
    def of(cls, config: RunConfig, node_config: Mapping[str, Any] | None = None) -> "Place":
        """Return the place of a server or simulated worker, or of a device by its node-config.

        Parameters
        ----------
        node_config : a device's; None elsewhere.

        Raises
        ------
        ConfigError
            If a device lacks its own data or id, or the run asks for what is not its own.
        """
        own = str(Path.home() / ".fedllm")
        if node_config is None:
            return cls(Path(config.run.home or own))
        if config.data.train != "node":
            raise ConfigError(
                f"data.train is {config.data.train!r}; this device opens no data but what its own "
                "node-config names: expected 'node'"
            )
        keys = ("home", "data-path", "model-path", "tokenizer-path")
        home, data, model, tokenizer = (str(node_config.get(key, "")) for key in keys)
        client = str(node_config.get("client-id", node_config.get("partition-id", "")))
        missing = [k for k, v in (("client-id", client), ("data-path", data)) if not v]
        relative = [v for v in (home, data, model, tokenizer) if v and not Path(v).is_absolute()]
        asked, problems = config.model, list[str]()
        # A model from scratch is drawn from the seed: there is nothing to open.
        source = "" if asked.scratch else asked.source
        if missing or relative:
            problems.append(
                f"node-config lacks {missing}, and {relative} are not absolute paths; expected "
                'for example --node-config \'client-id="alice" data-path="/data/alice.jsonl"\''
            )
        for setting, theirs, path, key in (
            ("model.source", source, model, "model-path"),
            ("model.tokenizer", asked.tokenizer, tokenizer, "tokenizer-path"),
        ):
            if theirs and not path and theirs not in named(node_config, "allow-models"):
                problems.append(
                    f"{setting} is {theirs!r}; this device opens and downloads only what its "
                    f'node-config names: expected {key}, or allow-models="{theirs}" there'
                )
        if problems:
            raise ConfigError(". ".join(problems))  # one line: it is what the server shows
        return cls(Path(home or own), data, model, tokenizer, client)


def named(node_config: Mapping[str, Any], key: str) -> list[str]:
    """Return the names that a key of a node-config lists, with commas between them."""
    names = str(node_config.get(key, "")).split(",")
    return [name.strip() for name in names if name.strip()]
