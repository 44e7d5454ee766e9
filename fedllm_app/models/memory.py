"""What a local step holds in memory, counted without memory: on tensors that have shapes alone.

The model is built from its config, with torch's FakeTensors, and a real batch goes through it
forward and backward. Every storage that an operation makes is counted from then until nothing
refers to it any more, so that what is in memory only for a moment (logits, their logarithms and
gradients, the gradient of an embedding) is in the peak, and checkpointing, mixed precision,
adapters and frozen weights need no rules of their own. The tensors of the batch stay real: what
depends on their values (where documents begin, how many tokens count) is computed as in a run.

Not counted is what a library takes inside one operation: packed copies of matrices, buffers of a
thread. benchmarks/studies/device_memory.py holds the count against processes.

Shapes: P trainable parameters.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from fedllm_app.core.errors import ConfigError, first_line
from fedllm_app.core.region import Where
from fedllm_app.models.adapter import wrap
from fedllm_app.models.backbone import (
    base_type,
    config_overrides,
    prepare_config,
    set_up,
    without_bars,
)
from fedllm_app.models.settings import LoraSettings, ModelSettings
from fedllm_app.models.suits import auto_model, read_config
from fedllm_app.models.trainable import TrainableModel


@dataclass(frozen=True)
class StepMemory:
    """Bytes that a model and one of its steps hold.

    Attributes
    ----------
    weights : all of the model, frozen and trained.
    gradients : of everything that is trained.
    activations : the most that a pass forward and backward holds at once beside these, its batch
        included.
    trained : P.
    """

    weights: int
    gradients: int
    activations: int
    trained: int


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes that operations have made and that something still refers to.

    Parameters
    ----------
    known : tensors that are not counted.

    Attributes
    ----------
    now, most : bytes at this moment, and the most so far.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._apart = list(known)  # held, so that no other storage comes to lie there
        self._seen = {tensor.untyped_storage()._cdata for tensor in self._apart}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count what it made."""
        out = func(*args, **(kwargs or {}))
        for made in tree_iter(out):
            if isinstance(made, Tensor):
                self._count(made)
        return out

    def _count(self, made: Tensor) -> None:
        storage = made.untyped_storage()
        if (place := storage._cdata) in self._seen:
            return
        self._seen.add(place)
        self.now += (size := storage.nbytes())
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, place, size)

    def _gone(self, place: int, size: int) -> None:
        self._seen.discard(place)
        self.now -= size


def shaped_config(
    source: str, task: str, labels: Sequence[str], tokenizer: PreTrainedTokenizerBase | None
) -> PreTrainedConfig:
    """Return the config of a model as a run prepares it; parameters as of `load_backbone`."""
    config = read_config(source, **config_overrides(task, labels))
    prepare_config(config, task, tokenizer)
    return config


def shaped_model(
    config: PreTrainedConfig,
    task: str,
    model: ModelSettings,
    lora: LoraSettings,
    autocast: str = "",
) -> TrainableModel:
    """Return the model of a run without memory: its tensors have shapes alone.

    Parameters
    ----------
    config : prepared.
    autocast : as in client.autocast.

    Raises
    ------
    ConfigError
        If the base is quantized, which needs its weights; or what is trained does not exist.
    """
    if model.quantize:
        raise ConfigError(
            f"model.quantize is {model.quantize!r}, whose memory is not counted; expected ''"
        )
    dtype = base_type(model)
    with without_bars(), torch.random.fork_rng(devices=[]), torch.device("meta"):
        made = auto_model(task).from_config(config, dtype=dtype)
        set_up(made, model, narrow=dtype == torch.bfloat16 or bool(autocast))
        wrapped = wrap(made, model, lora, 0)

    def shaped(tensor: Tensor) -> Tensor:
        """Return a tensor that says it is on a CPU, where operations are chosen as in a run."""
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")

    # What is real, such as a batch, becomes a shape where it meets one.
    with FakeTensorMode(allow_non_fake_inputs=True):
        return wrapped.remade(shaped)


def step_memory(
    model: TrainableModel,
    batch: Mapping[str, Tensor],
    step: Callable[[TrainableModel, dict[str, Tensor]], object],
    where: Where = None,
) -> StepMemory:
    """Return what a model holds in a step.

    Parameters
    ----------
    model : of `shaped_model`.
    batch : real, as the task collates it.
    step : passes a batch forward and backward.
    where : the coordinates that are trained.

    Raises
    ------
    ConfigError
        If the model asks for values of its activations, as a mixture of experts does.
    """
    module = model.model
    module.train()
    model.freeze_outside(where)
    held = [*module.parameters(), *module.buffers(), model.flat]
    own = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in held}
    live = Live([*held, model.grad, *batch.values()])
    with _told(), torch.random.fork_rng(devices=[]), live:
        step(model, dict(batch))
    read = sum(t.untyped_storage().nbytes() for t in batch.values())
    return StepMemory(
        sum(own.values()), 4 * model.grad.numel(), live.most + read, model.layout.size
    )


@contextmanager
def _told() -> Iterator[None]:
    """Say of what cannot be counted that it cannot."""
    try:
        yield
    except (RuntimeError, NotImplementedError, TypeError) as error:
        raise ConfigError(
            f"the memory of a step cannot be counted from shapes: {first_line(error)}"
        ) from error
