"""The loaded model at another rank: its layout, and parameters as they may be.

Shapes: P trainable parameters.
"""

from functools import cached_property

import numpy as np

from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.lora import lora_rank_axis, with_rank
from fedllm_app.core.seeds import generator


class Rank:
    """The loaded model's layout with adapters of one rank, and parameters as they may be.

    Attributes
    ----------
    layout : of this rank; P is its size.
    """

    def __init__(self, layout: ParamLayout, initial: np.ndarray, rank: int) -> None:
        self.layout = with_rank(layout, rank)
        self._loaded, self._initial, self._rank = layout, initial, rank

    @cached_property
    def start(self) -> np.ndarray:
        """As the model is built: A drawn from the loaded A's values, B zero. float32 (P,)."""
        return self._draw(grown=False)

    @cached_property
    def grown(self) -> np.ndarray:
        """As after some training: B's entries are as large as A's. float32 (P,)."""
        return self._draw(grown=True)

    def _draw(self, grown: bool) -> np.ndarray:
        rng, values = generator(0, "parameters", self._rank), np.empty(self.layout.size, np.float32)
        loaded = {n: self._initial[self._loaded.span(n)] for n in self._loaded.names}
        drawn = [v for n, v in loaded.items() if lora_rank_axis(n) is not None and v.any()]
        pool = np.concatenate(drawn) if drawn else np.zeros(1, np.float32)
        for name in self.layout.names:
            span, own = self.layout.span(name), loaded[name]
            size = span.stop - span.start
            if lora_rank_axis(name) is None:
                values[span] = own
            elif own.any():
                values[span] = rng.choice(own, size)
            else:
                values[span] = rng.choice(pool, size) if grown else 0
        return values
