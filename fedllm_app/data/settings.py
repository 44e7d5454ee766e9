"""The settings of what is learned: namespace `task`."""

from typing import Literal

from pydantic import Field

from fedllm_app.core.settings import Settings


class TaskSettings(Settings):
    """Namespace `task`: what the model learns to answer."""

    name: Literal["sequence-classification", "next-token", "image-classification"] = Field(
        "sequence-classification",
        description='"sequence-classification", "next-token" or "image-classification".',
    )
    max_tokens: int = Field(
        64,
        ge=2,
        description="Maximum length of an example in tokens. Longer texts are truncated; for "
        "next-token they are cut into several examples.",
    )
