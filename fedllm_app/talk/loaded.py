"""The model that a run ended with, and what it was trained on, ready to answer."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.settings import flatten
from fedllm_app.models.export import ABOUT
from fedllm_app.models.positions import most_tokens
from fedllm_app.models.result import load_result, result_folder


@dataclass(frozen=True)
class Speaker:
    """A model that answers.

    Attributes
    ----------
    model, tokenizer : of transformers; the tokenizer has a chat template.
    settings : run-config of the run, by dotted key.
    """

    model: Any
    tokenizer: Any
    settings: dict[str, Any]

    @property
    def positions(self) -> int:
        """Most tokens that the model reads, a large number where its config does not say."""
        said = int(getattr(self.model.config, "max_position_embeddings", 0) or 1 << 30)
        return min(said, most_tokens(self.model) or said)

    def room(self, most: int) -> int:
        """Return how many tokens a prompt may have in front of an answer.

        Parameters
        ----------
        most : tokens of an answer at most.

        Raises
        ------
        ConfigError
            If there is none.
        """
        if most >= self.positions:
            raise ConfigError(
                f"--max-tokens is {most}, and the model has {self.positions} positions for prompt "
                f"and answer; expected for example {self.positions // 2}"
            )
        return self.positions - most


def speaker(run: Path, base: str, cache: Path, device: str = "cpu") -> Speaker:
    """Return the model of a run with its adapters.

    Parameters
    ----------
    run : folder of the run.
    base : where the base is now; "" where it was in training.
    cache : folder for a base that is converted from a .gguf file.
    device : "auto", "cpu" or "cuda".

    Raises
    ------
    ConfigError
        If the run has no result yet, its task gives no answers, or there is no chat template.
    """
    settings = flatten(tomllib.loads((run / "config.toml").read_text("utf-8")))
    folder = result_folder(run)
    model, tokenizer, about = load_result(folder, base, cache, device)
    if not hasattr(model, "generate") or tokenizer is None or about["labels"]:
        raise ConfigError(
            f"{folder / ABOUT} is of task {about['task']!r}, which gives labels and no answers; "
            "expected a run of task.name = 'instruction'"
        )
    if not tokenizer.chat_template:
        raise ConfigError(
            f"the tokenizer in {folder} has no chat template: the run was trained on plain text "
            f"(task {about['task']!r}); expected a run of task.name = 'instruction', or one with "
            "model.chat-template"
        )
    return Speaker(model, tokenizer, settings)
