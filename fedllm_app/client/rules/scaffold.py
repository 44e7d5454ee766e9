"""SCAFFOLD on a device (Karimireddy et al. 2020, arXiv 1910.06378, Algorithm 1, option II).

With c the server's control variate and c_i the device's own, which it keeps:

    y <- y - lr (g - c_i + c)                  every local step
    c_i+ <- c_i - c + (x - y) / (K lr)
    send c_i+ - c_i

A device that no longer has its c_i goes on from c, the mean of all: from zero, what it sends would
count a second time.

Under plain SGD c_i+ is the mean of the K gradients g, and as that it is computed here: it is then
right with a schedule and with any local optimizer, too.
"""

from typing import ClassVar

from fedllm_app.client.rules.base import LocalRule, Named, Parts

CONTROL = "control"


class Scaffold(LocalRule):
    """Correct every step by the difference of two control variates."""

    keeps: ClassVar[bool] = True
    beside: ClassVar[tuple[str, ...]] = (CONTROL,)

    def begin(self, start: Parts, vectors: Named, kept: Named) -> None:
        """Take the two control variates; a device's first is zero."""
        self._server = vectors[CONTROL]
        self._own = kept.get(CONTROL) or [part.new_zeros(part.shape) for part in start]
        self._sum = [part.new_zeros(part.shape) for part in start]

    def lost(self, vectors: Named) -> Named:
        """Go on from the server's."""
        return {CONTROL: [part.clone() for part in vectors[CONTROL]]}

    def gradient(self, gradient: Parts, values: Parts) -> None:
        """Note the gradient, and correct it."""
        parts = zip(gradient, self._sum, self._own, self._server, strict=True)
        for part, total, own, server in parts:
            total.add_(part)
            part.sub_(own).add_(server)

    def end(self, values: Parts, steps: int, lr: float) -> tuple[Named, Named]:
        """Return the change of the device's control variate, and the new one to keep."""
        if not steps:
            return {CONTROL: [part.new_zeros(part.shape) for part in values]}, {CONTROL: self._own}
        new = [total.div_(steps) for total in self._sum]
        change = [after - before for after, before in zip(new, self._own, strict=True)]
        return {CONTROL: change}, {CONTROL: new}
