"""The server's step: torch.optim on one flat tensor, with the mean delta as its gradient.

A delta is received minus trained, so it points uphill as a gradient does, and torch's optimizers
descend along it unchanged (Reddi et al. 2021). Bias correction, decay and momentum are torch's.

The named optimizers work coordinate by coordinate, so that they step block by block, on views of
the parameters and of their state: torch's temporaries then stay small, and what may not move is
not touched. One of your own may look at the whole vector, and so steps it at once.

Shapes: P trainable parameters, K coordinates that may move.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.extend import load
from fedllm_app.core.plan import Outside
from fedllm_app.core.region import Region, Where
from fedllm_app.server.adaptive import Adaptive
from fedllm_app.server.delayed import DelayedNesterov
from fedllm_app.server.settings import ADAPTIVE, DELAYED, ServerSettings

BLOCK = 1 << 20  # coordinates of one step of torch's: some temporaries of 4 MB
Make = Callable[[Tensor, ServerSettings], torch.optim.Optimizer]


def adam(params_P: Tensor, s: ServerSettings) -> torch.optim.Optimizer:
    """Return Adam (Kingma and Ba 2015)."""
    betas = (s.beta1, s.beta2)
    return torch.optim.Adam([params_P], s.lr, betas=betas, eps=s.eps, weight_decay=s.weight_decay)


def adamw(params_P: Tensor, s: ServerSettings) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov and Hutter 2019)."""
    betas = (s.beta1, s.beta2)
    return torch.optim.AdamW([params_P], s.lr, betas=betas, eps=s.eps, weight_decay=s.weight_decay)


def adagrad(params_P: Tensor, s: ServerSettings) -> torch.optim.Optimizer:
    """Return Adagrad (Duchi et al. 2011)."""
    return torch.optim.Adagrad([params_P], lr=s.lr, eps=s.eps, weight_decay=s.weight_decay)


def sgd(params_P: Tensor, s: ServerSettings) -> torch.optim.Optimizer:
    """Return stochastic gradient descent, with momentum and Nesterov's form of it."""
    return torch.optim.SGD(
        [params_P],
        lr=s.lr,
        momentum=s.momentum,
        nesterov=s.nesterov,
        weight_decay=s.weight_decay,
    )


def delayed_nesterov(params_P: Tensor, s: ServerSettings) -> torch.optim.Optimizer:
    """Return Nesterov momentum that is applied at every N-th step (Liu et al. 2024)."""
    return DelayedNesterov([params_P], s.lr, s.momentum, s.momentum_period, s.weight_decay)


def adaptive(params_P: Tensor, s: ServerSettings) -> torch.optim.Optimizer:
    """Return FedAdam, FedYogi or FedAdagrad (Reddi et al. 2021)."""
    return Adaptive([params_P], s.optimizer, s.lr, (s.beta1, s.beta2), s.eps, s.weight_decay)


OPTIMIZERS: dict[str, Make] = {
    "adam": adam,
    "adamw": adamw,
    "sgd": sgd,
    "adagrad": adagrad,
    DELAYED: delayed_nesterov,
    **dict.fromkeys(ADAPTIVE, adaptive),
}


MOMENTA = ("momentum_buffer", "exp_avg")  # torch's names of a first moment


class ServerOptimizer:
    """The dense parameters and the optimizer that moves them.

    Parameters
    ----------
    settings : resolved settings.
    params_P : initial parameters, float32 of shape (P,); not changed.

    Raises
    ------
    ConfigError
        If `server.optimizer` is neither a name here nor one of your own.
    """

    def __init__(self, settings: ServerSettings, params_P: np.ndarray) -> None:
        self._settings, name = settings, settings.optimizer
        self._make: Make = load("server.optimizer", name, callable, OPTIMIZERS)
        self._whole = name not in OPTIMIZERS  # it may look at all that moves at once
        self._block = max(1, params_P.size) if self._whole else BLOCK
        self._start = torch.from_numpy(params_P.astype(np.float32, copy=False))
        self._params = self._start.clone()
        self._state: dict[str, Tensor] = {}

    @property
    def params(self) -> np.ndarray:
        """The parameters, float32 of shape (P,), sharing memory: read only."""
        view: np.ndarray = self._params.numpy()
        return view

    def step(
        self,
        gradient_P: np.ndarray,
        within: Where = None,
        outside: Outside = "leave",
        lr_factor: float = 1.0,
    ) -> None:
        """Take one step.

        Parameters
        ----------
        gradient_P : mean delta, float32 of shape (P,).
        within : the set that may move.
        outside : what the other coordinates become: as before, zero, or as they began. Their
            momenta stay as before, or become zero.
        lr_factor : of the schedule; the learning rate is multiplied by it.
        """
        settings = self._settings
        if lr_factor != 1.0:
            settings = settings.model_copy(update={"lr": settings.lr * lr_factor})
        gradient = torch.from_numpy(gradient_P)
        numbers = {name: value for name, value in self._state.items() if not value.ndim}
        before = numbers if self._state else None
        for part in self._blocks(within):
            self._step_part(part, gradient, settings, before)
        if within is not None and outside != "leave":
            self._reset_outside(within, outside)

    def _blocks(self, within: Where) -> Iterator[slice | Tensor | Region]:
        """Yield what may move in parts of at most a block, a region's by piece."""
        if isinstance(within, Region) and self._whole:
            yield within
            return
        if isinstance(within, Region):
            for piece in within.pieces:
                if piece.size == piece.stop - piece.start:
                    edges = range(piece.start, piece.stop, self._block)
                    yield from (slice(a, min(a + self._block, piece.stop)) for a in edges)
                else:
                    yield Region((piece,))
            return
        size = self._params.numel() if within is None else within.size
        for start in range(0, size, self._block):
            part = slice(start, min(start + self._block, size))
            yield part if within is None else torch.from_numpy(within[part])

    def _step_part(
        self,
        part: slice | Tensor | Region,
        gradient_P: Tensor,
        settings: ServerSettings,
        before: Mapping[str, Tensor] | None,
    ) -> None:
        """Step one part; `before` are the state's numbers before this step, None at the first."""
        params = _take(self._params, part)
        optimizer = self._make(params, settings)
        if before is not None:
            own = {n: _take(v, part) for n, v in self._state.items() if v.ndim}
            optimizer.state[params] = own | {n: v.clone() for n, v in before.items()}
        params.grad = _take(gradient_P, part)
        optimizer.step()
        params.grad = None
        _put(self._params, part, params)
        for name, value in optimizer.state[params].items():
            if not isinstance(value, Tensor):
                continue
            if value.shape != params.shape:
                self._state[name] = value
                continue
            if name not in self._state:
                # A momentum that did not exist before its first step was zero.
                self._state[name] = torch.zeros_like(self._params)
            _put(self._state[name], part, value)

    def _reset_outside(self, within: Region | np.ndarray, outside: Outside) -> None:
        """Set what may not move to zero or to its start, and its momenta to zero."""
        fixed_P = torch.ones(self._params.shape, dtype=torch.bool)
        if isinstance(within, Region):
            for view in within.views(fixed_P):
                view.fill_(False)
        else:
            fixed_P[torch.from_numpy(within)] = False
        for tensor in self._state.values():
            if tensor.ndim:
                tensor.masked_fill_(fixed_P, 0.0)
        if outside == "zero":
            self._params.masked_fill_(fixed_P, 0.0)
        else:
            self._params[fixed_P] = self._start[fixed_P]

    def norms(self) -> dict[str, float]:
        """Return the Euclidean norms of the parameters and, where there is one, of the momentum."""
        moments = [self._state[name] for name in MOMENTA if name in self._state]
        held = {"params-norm": self._params} | dict(zip(["momentum-norm"], moments, strict=False))
        return {name: float(np.linalg.norm(vector.numpy())) for name, vector in held.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Return all of the state as named tensors: what a checkpoint holds."""
        return {"params": self._params} | {f"optimizer.{n}": v for n, v in self._state.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` returned, bit for bit; its memory is this one's from now on."""
        if tensors["params"].shape != self._params.shape:
            raise ConfigError(
                f"the checkpoint has {tensors['params'].numel()} parameters; this model has "
                f"{self._params.numel()}"
            )
        self._params = tensors["params"]
        prefix = "optimizer."
        self._state = {n.removeprefix(prefix): t for n, t in tensors.items() if n != "params"}


def _take(vector_P: Tensor, part: slice | Tensor | Region) -> Tensor:
    """Return a part of a vector: a view of a slice, otherwise a copy in one row."""
    if isinstance(part, Region):
        return torch.cat([view.reshape(-1) for view in part.views(vector_P)])
    return vector_P[part].detach()


def _put(vector_P: Tensor, part: slice | Tensor | Region, values: Tensor) -> None:
    """Write a part back; what is a view is there already."""
    if isinstance(part, Region):
        at = 0
        for view in part.views(vector_P):
            view.copy_(values[at : at + view.numel()].view(view.shape))
            at += view.numel()
    elif values.data_ptr() != vector_P[part].data_ptr():
        vector_P[part] = values
