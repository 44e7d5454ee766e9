"""The tasks by name. To add one, write its file and a line here, or name your own module.

Metrics differ in which way is better; `falls` knows.
"""

from dataclasses import replace
from typing import Literal

from pydantic import Field

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.extend import load
from fedllm_app.core.settings import Settings
from fedllm_app.tasks.base import Metric, TaskKind
from fedllm_app.tasks.classify import SEQUENCE_CLASSIFICATION
from fedllm_app.tasks.image import IMAGE_CLASSIFICATION
from fedllm_app.tasks.instruction import INSTRUCTION
from fedllm_app.tasks.next_token import NEXT_TOKEN
from fedllm_app.tasks.pretraining import PRETRAINING

TASKS: dict[str, TaskKind] = {
    kind.name: kind
    for kind in (
        SEQUENCE_CLASSIFICATION, NEXT_TOKEN, PRETRAINING, INSTRUCTION, IMAGE_CLASSIFICATION
    )
}  # fmt: skip
OF_ANSWERS = (Metric("exact-match"), Metric("rouge-l"))  # of every task with conversations
CHAT_KEYS = (
    "loss-on",
    "packing",
    "generate",
    "generate-tokens",
    "generate-at",
)  # of tasks with conversations


class TaskSettings(Settings):
    """Namespace `task`: what the model learns to answer."""

    name: str = Field(
        SEQUENCE_CLASSIFICATION.name,
        description=", ".join(f'"{name}"' for name in TASKS) + ", or MODULE:NAME of your own.",
    )
    max_tokens: int = Field(
        64,
        ge=2,
        description="Maximum length of an example in tokens. Longer texts are truncated; for "
        "next-token they are cut into several examples, for pretraining packed into rows of this "
        "length; a conversation loses its oldest turns.",
    )
    loss_on: Literal["responses", "all"] = Field(
        "responses",
        description="What is learned of a conversation (instruction): the 'responses' of the "
        "assistant, or 'all' tokens. What is measured is always the responses.",
    )
    packing: bool = Field(
        False,
        description="Fill rows of task.max-tokens with several conversations (instruction); "
        "attention stays inside each one. Less padding, the same loss.",
    )
    generate: int = Field(
        0,
        ge=0,
        description="Held-out conversations that the model answers at the end of a run, before "
        "and after training, always the same ones (instruction). 0 answers none.",
    )
    generate_tokens: int = Field(
        128, ge=1, description="Most tokens of an answer that is generated at the end of a run."
    )

    generate_at: Literal["end", "evaluations"] = Field(
        "end",
        description="When those conversations are answered: at the 'end' of a run, or at all "
        "'evaluations' too, which adds exact-match and rouge-l to the metrics of a round.",
    )

    @property
    def answer_tokens(self) -> int:
        """Most tokens that a run generates behind a row, 0 if it answers none."""
        return self.generate_tokens if self.generate else 0

    @property
    def answers_often(self) -> bool:
        """Whether every evaluation answers held-out conversations."""
        return self.generate > 0 and self.generate_at == "evaluations"

    @property
    def kind(self) -> TaskKind:
        """The task itself, as these settings ask for it; ConfigError if there is none."""
        kind = task_of(self.name)
        kind = kind if kind.fitted is None else kind.fitted(kind, self)
        if not (kind.chat and self.answers_often):
            return kind
        return replace(kind, metrics=(*kind.metrics, *OF_ANSWERS))


def task_of(name: str) -> TaskKind:
    """Return a task by its name, or one of your own by "MODULE:NAME".

    Raises
    ------
    ConfigError
        If there is none, or a device does not allow its module.
    """
    kind: TaskKind = load("task.name", name, TaskKind, TASKS)
    return kind


def falls(metric: str, task: str = "") -> bool:
    """Return whether less is better.

    Parameters
    ----------
    metric : name of a metric.
    task : whose metric it is; one that is unknown here, or has no such metric, leaves it to the
        metrics of the built-in tasks.
    """
    try:
        kinds = [task_of(task)]
    except ConfigError:  # a run of somebody else's
        kinds = []
    for kind in (*kinds, *TASKS.values()):
        if metric in kind.metric_names:
            return metric in kind.falling
    return False
