"""One flat vector that IS the trainable part of a model.

Everything else in this project sees trainable parameters as a float32 vector of length P. Here the
vector and the parameters are the same memory: `flat` holds the values, `grad` the gradients, and
the model's parameters are views into both. Loading a client's copy is one copy into `flat`, a step
of any torch optimizer on `flat` is a step of the model, and no tensor exists twice.

Shapes: P trainable parameters, B batch, C classes, T tokens, V vocabulary.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from fedllm_app.core.errors import WireError
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.lora import lora_rank, with_rank
from fedllm_app.core.region import Region, Where
from fedllm_app.models.sliced import slice_layers, whole_layer
from fedllm_app.tasks.base import TARGETS


class TrainableModel:
    """A model whose trainable parameters are views of one flat vector.

    Attributes
    ----------
    model : the module to put in train or eval mode; a PeftModel for train="lora".
    train : "lora", "head" or "full".
    layout : order of the tensors in `flat`.
    flat : float32 tensor of shape (P,), the trainable values; shorter while the model holds
        adapters of a lower rank. `flat.grad` is `grad`, so that `torch.optim.SGD([model.flat])`
        trains the model.
    grad : float32 tensor of shape (P,); backward adds to it. Clear it with `zero_grad` here:
        `Module.zero_grad` would cut the parameters loose from it.
    random_base : the frozen base was drawn from the seed and is found in no checkpoint.
    """

    def __init__(
        self,
        model: PeftModel | PreTrainedModel,
        tensors: Mapping[str, nn.Parameter],
        train: Literal["lora", "head", "full"],
        random_base: bool = False,
    ) -> None:
        self.model = model
        self.train = train
        self.random_base = random_base
        self.layout = ParamLayout.of(tensors.items())
        self._tensors = dict(tensors)
        self._rank = lora_rank(self.layout)
        self._sliced: list[nn.Module] = []
        self._hold(self._rank, copy=True)

    @property
    def backbone(self) -> PreTrainedModel:
        """The transformers model, with adapters inside if there are any."""
        return self.model.get_base_model() if self.train == "lora" else self.model

    @property
    def tensors(self) -> list[nn.Parameter]:
        """The trainable tensors, in the order of the layout."""
        return [*self._tensors.values()]

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits over names, types and bytes of all frozen tensors."""
        return base_fingerprint((_plain(name), tensor) for name, tensor in self._frozen())

    @cached_property
    def base_bytes(self) -> int:
        """Bytes of all frozen tensors in their own types: what a device downloads once."""
        return sum({memory_of(t): t.numel() * t.element_size() for _, t in self._frozen()}.values())

    def load(self, values_P: np.ndarray | Tensor, rank: int = 0) -> None:
        """Set all trainable values; nothing else changes, gradients and modes included.

        Parameters
        ----------
        rank : of the adapters that the model is to hold, at most the layout's, which is 0. A model
            of a lower rank has no memory for the rest and spends no time on it; its adapters are
            scaled as before.

        Raises
        ------
        WireError
            If the shape is not (P,), or that of a lower rank, or the rank is above the layout's.
        """
        most = lora_rank(self.layout)
        if not 0 <= rank <= most:
            raise WireError(f"rank is {rank}; this model's adapters have {most}")
        if (rank or most) != self._rank:
            self._hold(rank or most)
        if tuple(values_P.shape) != (self.current.size,):
            raise WireError(
                f"{list(values_P.shape)} trainable values; expected [{self.current.size}], "
                "the length of this model's layout"
            )
        self._check_views()
        if isinstance(values_P, Tensor):
            self.flat.copy_(values_P)
        elif self.flat.device.type == "cpu":
            np.copyto(self.flat.numpy(), values_P)
        else:
            self.flat.copy_(torch.tensor(values_P))

    def values(self) -> np.ndarray:
        """Return a copy of all trainable values, float32 of shape (P,)."""
        return self.flat.cpu().numpy().copy()

    def to(self, device: str) -> Self:
        """Move the model, what is frozen included; `flat` and `grad` are then other tensors.

        Where all of it is there, nothing happens: a base in few bits is loaded where it computes.
        """
        tensors = (*self.model.parameters(), *self.model.buffers(), self.flat)
        if not all(lies_on(tensor.device, device) for tensor in tensors):
            # Where memory cannot be swapped, torch puts other parameters in the place of these.
            names = {id(p): name for name, p in self.model.named_parameters()}
            own = {name: names[id(p)] for name, p in self._tensors.items()}
            self.model.to(device)
            self._tensors = {n: self.model.get_parameter(path) for n, path in own.items()}
            self._hold(self._rank, copy=True)
        return self

    def remade(self, make: Callable[[Tensor], Tensor]) -> Self:
        """Put other tensors in the place of all there are; `flat` and `grad` are made anew.

        Parameters
        ----------
        make : returns a tensor of the same shape and type; it is asked once for tied ones.
        """
        new: dict[int, Tensor] = {}
        for module in self.model.modules():
            both = ((module.named_parameters, True), (module.named_buffers, False))
            for named, parameter in both:
                for name, old in [*named(recurse=False, remove_duplicate=False)]:
                    if id(old) not in new:
                        made = make(old)
                        new[id(old)] = nn.Parameter(made, old.requires_grad) if parameter else made
                    setattr(module, name, new[id(old)])
        self._tensors = {name: new[id(p)] for name, p in self._tensors.items()}  # type: ignore[misc]
        self._hold(self._rank)
        return self

    def zero_grad(self) -> None:
        """Set the gradient to zero, and tie every parameter to its part of it."""
        self.grad.zero_()
        for name, parameter in self._tensors.items():
            parameter.grad = self._grads[name]

    def freeze_outside(self, where: Where) -> None:
        """Compute gradients only of tensors that hold a coordinate of this set.

        What backward need not compute for the rest is saved. Where slices of a linear layer's
        weight are meant, the gradient of the rest of it is left out, too.
        """
        while self._sliced:
            whole_layer(self._sliced.pop())
        edges = np.array([*self.current.offsets, self.current.size])
        if isinstance(where, Region):
            starts = {piece.start for piece in where.pieces}
            sizes = self.current.sizes
            held = [at in starts and size > 0 for at, size in zip(edges, sizes, strict=False)]
        else:
            counts = np.diff(edges if where is None else np.searchsorted(where, edges))
            held = (counts > 0).tolist()
        for parameter, wanted in zip(self._tensors.values(), held, strict=True):
            parameter.requires_grad_(bool(wanted))
        if isinstance(where, Region):
            self._sliced = slice_layers(self.model, self._tensors, self.current, where)

    def _hold(self, rank: int, copy: bool = False) -> None:
        """Lay the parameters out anew, with adapters of this rank; `copy` keeps their values."""
        device = next(iter(self._tensors.values())).device
        self._rank = rank
        self.current = with_rank(self.layout, rank)
        self.flat = torch.zeros(self.current.size, dtype=torch.float32, device=device)
        self.grad = torch.zeros_like(self.flat)
        self.flat.grad = self.grad
        self._grads = self.current.unflatten(self.grad)
        for name, view in self.current.unflatten(self.flat).items():
            parameter = self._tensors[name]
            if copy:
                view.copy_(parameter.data)
            parameter.grad = None  # of the old shape
            parameter.data = view  # the old memory is freed here, one tensor at a time
        self.zero_grad()

    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return float32 logits of shape (B, C), or (B, T, V) for next-token.

        Parameters
        ----------
        batch : inputs by name, on the model's device; targets may be among them (tasks.base
            TARGETS) and are not handed to the model.
        """
        inputs = {k: v for k, v in batch.items() if k not in TARGETS}
        outputs = self.backbone(**inputs, **self._image_arguments(inputs))
        logits: Tensor = outputs.logits
        return logits.float()

    def _frozen(self) -> Iterator[tuple[str, Tensor]]:
        """Yield what is frozen, without the untrained head that PEFT keeps: nothing reads it."""
        trained = {memory_of(parameter) for parameter in self._tensors.values()}
        for name, tensor in self.model.state_dict().items():
            if memory_of(tensor) not in trained and ".original_module." not in name:
                yield name, tensor

    def _image_arguments(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """ViT refuses another side than its own unless told to stretch its position table."""
        pixels, own = inputs.get("pixel_values"), getattr(self.backbone.config, "image_size", None)
        if pixels is None or self.backbone.config.model_type not in {"vit", "deit"}:
            return {}
        own_sides = tuple(own) if isinstance(own, (list, tuple)) else (own, own)
        return {"interpolate_pos_encoding": True} if tuple(pixels.shape[-2:]) != own_sides else {}

    def _check_views(self) -> None:
        start = self.flat.data_ptr()
        for (name, parameter), offset in zip(
            self._tensors.items(), self.current.offsets, strict=True
        ):
            if parameter.data_ptr() != start + 4 * offset:
                raise RuntimeError(
                    f"{name} no longer lies in the flat vector: something replaced its data, for "
                    "example a .to() of the wrapped model's"
                )


def lies_on(place: torch.device, device: str) -> bool:
    """Return whether a tensor's place is a device; "cuda" is any of the GPUs."""
    asked = torch.device(device)
    return place.type == asked.type and asked.index in (None, place.index)


def memory_of(tensor: Tensor) -> tuple[int, int]:
    """Return where a tensor lies, which tied ones share; also of one that has shapes alone."""
    return tensor.untyped_storage()._cdata, int(tensor.storage_offset())


def base_fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return 32 hexadecimal digits (BLAKE2b) over tensors by name; tied tensors count once."""
    digest = hashlib.blake2b(digest_size=16)
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        identity = (tensor.data_ptr(), tensor.shape)
        if identity in seen or tensor.numel() == 0:
            continue
        seen.add(identity)
        header = f"{name}|{tensor.dtype}|{list(tensor.shape)}".encode()
        digest.update(len(header).to_bytes(4, "little") + header)
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()


def _plain(name: str) -> str:
    """Return a tensor's name as the unwrapped backbone has it."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")
