"""What is wrong between the model and the rest of a run; one sentence for each."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedllm_app.models.scratch import ALL_SHAPES, shape_of
from fedllm_app.models.settings import BACKBONES, SCRATCH, TRAIN
from fedllm_app.tasks.base import TaskKind

if TYPE_CHECKING:
    from fedllm_app.config import RunConfig


def of_model(c: "RunConfig", kind: TaskKind, simulated: bool) -> Iterator[str]:
    """Yield what is wrong with a model of ours, a model from scratch, and a trained tokenizer."""
    source, tokenizer = c.model.source, c.model.tokenizer
    if not simulated and source in BACKBONES:
        yield "model.source is 'embedded', which is for simulation only; data.train is 'node'"
    if c.model.scratch:
        yield from _of_scratch(c, kind)
    elif tokenizer == TRAIN and c.model.reads_weights:
        yield (
            f"model.tokenizer is 'train' with model.source = {source!r}, whose weights belong to a "
            f"tokenizer of its own; expected '' there, or a model.source that begins with "
            f"'{SCRATCH}'"
        )
    if tokenizer == TRAIN and not simulated:
        yield (
            "model.tokenizer is 'train' with data.train = 'node': no device sees the text of all; "
            "expected the folder or hub name of a tokenizer that every device has"
        )


def _of_scratch(c: "RunConfig", kind: TaskKind) -> Iterator[str]:
    source = c.model.source
    if shape_of(source) is None:
        names = ", ".join(f"{SCRATCH}{name}" for name in ALL_SHAPES)
        yield f"model.source is {source!r}; expected one of {names}"
    if c.model.train != "full":
        yield (
            f"model.train is {c.model.train!r} with model.source = {source!r}, of which nothing is "
            "trained yet; expected 'full'"
        )
    if kind.images or not kind.causal:
        yield (
            f"task.name is {c.task.name!r} with model.source = {source!r}, which predicts the next "
            "token; expected a task that trains an AutoModelForCausalLM, such as 'next-token'"
        )
    elif not c.model.tokenizer:
        yield (
            f"model.tokenizer is '' with model.source = {source!r}, which has none; expected "
            "'train', or the folder or hub name of one"
        )
