"""MimeLite on a device, over SGD with momentum (Karimireddy et al. 2020, arXiv 2008.03606).

With s the server's momentum, already multiplied by beta, and the same during all local steps:

    y <- y - lr (g + beta s)
    send the gradient at x of all of the device's examples

That is U of Algorithm 1 in torch's form of momentum; the paper has (1 - beta) g + beta m, which is
the same with a rate of lr / (1 - beta).
"""

from typing import ClassVar

from fedllm_app.client.rules.base import LocalRule, Named, Parts

MOMENTUM, GRADIENT = "momentum", "gradient"


class MimeLite(LocalRule):
    """Step with the server's momentum, and send the gradient that it is updated by."""

    beside: ClassVar[tuple[str, ...]] = (MOMENTUM, GRADIENT)
    plain: ClassVar[bool] = True
    looks_first: ClassVar[bool] = True

    def begin(self, start: Parts, vectors: Named, kept: Named) -> None:
        """Take the server's momentum."""
        self._momentum = vectors[MOMENTUM]

    def first(self, gradient: Parts) -> None:
        """Keep the gradient at the start."""
        self._gradient = [part.clone() for part in gradient]

    def gradient(self, gradient: Parts, values: Parts) -> None:
        """Add the momentum."""
        for part, momentum in zip(gradient, self._momentum, strict=True):
            part.add_(momentum)

    def end(self, values: Parts, steps: int, lr: float) -> tuple[Named, Named]:
        """Return the gradient at the start."""
        return {GRADIENT: self._gradient}, {}
