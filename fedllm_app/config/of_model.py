"""What is wrong between the model and the rest of a run; one sentence for each."""

from collections.abc import Iterable, Iterator
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


# Keys of methods that send a part of the adapters, and a device fills the rest with zeros.
FILLS_ZERO = {"d-down", "tier-densities", "density", "tier-ranks"}


def of_lora(c: "RunConfig", keys: Iterable[str]) -> Iterator[str]:
    """Yield what is wrong with how adapters are made, and with a base in few bits.

    Parameters
    ----------
    keys : of the method (namespace strategy).
    """
    lora, quantize = c.lora, c.model.quantize
    if lora.dora and FILLS_ZERO & set(keys) and c.strategy.down == "values":
        yield (
            f"lora.dora is True with strategy.name = {c.strategy.name!r}, which fills what it does "
            "not send with zeros: a column of length zero is lost. Expected strategy.down = "
            "'change', lora.dora = false, or a method that sends every adapter whole, as 'dense'"
        )
    if lora.init == "orthogonal" and lora.rank % 2:
        yield f"lora.init is 'orthogonal' with lora.rank = {lora.rank}; expected an even rank"
    if quantize and c.model.train != "lora":
        yield (
            f"model.quantize is {quantize!r} with model.train = {c.model.train!r}; expected "
            "'lora': what is held in few bits cannot be trained"
        )
    if quantize and c.model.device == "cpu":
        yield (
            f"model.quantize is {quantize!r} with model.device = 'cpu', where bitsandbytes does "
            "not compute; expected '' there, with model.dtype = 'bfloat16' for half the memory"
        )
    if quantize and not c.model.reads_weights:
        yield f"model.quantize is {quantize!r} with a random base; expected pretrained weights"


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
