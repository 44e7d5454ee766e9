"""FedProx (Li et al. 2020, arXiv 1812.06127, Algorithm 2): mu / 2 |w - w_0|^2 is added to the loss.

w_0 is what came down: of a masked download, the masked copy.
"""

from typing import ClassVar

from pydantic import Field

from fedllm_app.client.rules.base import LocalRule, Named, Parts
from fedllm_app.core.settings import Settings


class Keys(Settings):
    """What `client.rule-args` may set.

    Attributes
    ----------
    mu : weight of the proximal term, 0 or more.
    """

    mu: float = Field(0.01, ge=0)


class FedProx(LocalRule):
    """Pull every step back to where training began."""

    Keys: ClassVar[type[Settings] | None] = Keys

    def begin(self, start: Parts, vectors: Named, kept: Named) -> None:
        """Remember where training began."""
        self._start = [part.clone() for part in start]

    def gradient(self, gradient: Parts, values: Parts) -> None:
        """Add the gradient of the proximal term."""
        mu = self.keys.mu
        for part, now, then in zip(gradient, values, self._start, strict=True):
            part.add_(now, alpha=mu).sub_(then, alpha=mu)
