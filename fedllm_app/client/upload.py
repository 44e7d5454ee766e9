"""What a device sends: the part of a change that its plan asks for, encoded, and what that leaves.

Shapes: P trainable parameters, K coordinates sent.
"""

from dataclasses import dataclass

import numpy as np

from fedllm_app.core.job import Job
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import Beside, ClientPlan, TopK
from fedllm_app.core.region import Where, positions_of, put, take
from fedllm_app.core.seeds import generator
from fedllm_app.core.support import Draw, expand
from fedllm_app.wire.codec import WireSettings, decode
from fedllm_app.wire.select import top_positions
from fedllm_app.wire.slices import Origin
from fedllm_app.wire.tiles import block_positions, candidates_of
from fedllm_app.wire.vector import encode_set


def decayed(residual: np.ndarray, decay: float) -> np.ndarray:
    """Return what is left of a residual, float32 (SparseLoCo, arXiv 2508.15706: beta e)."""
    return residual if decay == 1 else residual * np.float32(decay)


@dataclass(frozen=True)
class Upload:
    """Encodes what one job returns.

    Attributes
    ----------
    layout, origin : of the vectors.
    wire : value type and block of uploads.
    draw : what derived supports are drawn by.
    job : seeds the rounding.
    """

    layout: ParamLayout
    origin: Origin
    wire: WireSettings
    draw: Draw
    job: Job

    def params(self, plan: ClientPlan, delta: np.ndarray) -> tuple[np.ndarray, Where]:
        """Return the part of a change that the plan sends up, encoded, and where that lies.

        Parameters
        ----------
        delta : over all P coordinates, or over those that the device holds.
        """
        up = plan.up
        where: Where
        if isinstance(up, TopK):
            where = self._largest(up, delta)
        else:
            where = expand(up, self.layout, self.draw)
        values = delta if plan.rank else take(delta, where)
        rng = None
        if plan.rounding == "random":
            rng = generator(self.draw.seed, "up", self.job.id, self.job.client)
        return self._encoded(values, where, isinstance(up, TopK), self.wire.up_values, rng), where

    def beside(self, name: str, vector: Beside, values_P: np.ndarray) -> np.ndarray:
        """Return a vector that travels beside the parameters, encoded."""
        where = expand(vector.support, self.layout, self.draw)
        rng = generator(self.draw.seed, "up", self.job.id, self.job.client, name)
        value_type = vector.value_type or self.wire.up_values
        return self._encoded(take(values_P, where), where, False, value_type, rng)

    def left_out(
        self, plan: ClientPlan, delta: np.ndarray, payload: np.ndarray, where: Where
    ) -> np.ndarray:
        """Return what the server does not get of a change: coordinates not sent, and rounding.

        Source: error feedback, Karimireddy et al. 2019 (arXiv 1901.09847).
        """
        derived = None if isinstance(plan.up, TopK) else where
        got = decode(payload, self.origin, derived=derived)
        where = None if plan.rank else where
        left = delta.copy()
        put(left, where, take(left, where) - got.values)
        return left

    def _largest(self, up: TopK, delta: np.ndarray) -> np.ndarray:
        """Return the positions that the device chooses, ascending."""
        within = expand(up.within, self.layout, self.draw)
        always = None
        if up.always is not None:
            always = positions_of(expand(up.always, self.layout, self.draw), delta.size)
        if not up.side:
            candidates = None if within is None else positions_of(within, delta.size)
            return top_positions(delta, up.density, candidates, always)
        free_P = candidates_of(within, always, delta.size)
        top = block_positions(delta, up.density, up.side, self.layout, free_P)
        return top if always is None else np.union1d(top, always)

    def _encoded(
        self,
        values: np.ndarray,
        where: Where,
        explicit: bool,
        value_type: str,
        rng: np.random.Generator | None,
    ) -> np.ndarray:
        return encode_set(
            values,
            where,
            self.origin,
            explicit=explicit,
            value_type=value_type,
            block=self.wire.block,
            rng=rng,
        )
