"""The tasks by name. To add one, write its file and a line here, or name your own module.

Metrics differ in which way is better; `falls` knows.
"""

from pydantic import Field

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.extend import load
from fedllm_app.core.settings import Settings
from fedllm_app.tasks.base import TaskKind
from fedllm_app.tasks.classify import SEQUENCE_CLASSIFICATION
from fedllm_app.tasks.image import IMAGE_CLASSIFICATION
from fedllm_app.tasks.next_token import NEXT_TOKEN
from fedllm_app.tasks.pretraining import PRETRAINING

TASKS: dict[str, TaskKind] = {
    kind.name: kind
    for kind in (SEQUENCE_CLASSIFICATION, NEXT_TOKEN, PRETRAINING, IMAGE_CLASSIFICATION)
}


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
        "length.",
    )

    @property
    def kind(self) -> TaskKind:
        """The task itself; ConfigError if there is none of this name."""
        return task_of(self.name)


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
