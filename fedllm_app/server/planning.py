"""A round before it begins: the method's plan, checked, and what goes down, encoded.

Shapes: P trainable parameters.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.holding import base_of, device_copy
from fedllm_app.core.job import Job, Profile, Request
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import PARAMS, ClientPlan, RoundPlan
from fedllm_app.core.region import Where, take
from fedllm_app.core.seeds import generator
from fedllm_app.core.state import RunState
from fedllm_app.core.support import Draw, Positions, expand
from fedllm_app.server.methods.base import Inputs, Method, MethodState, StrategySettings
from fedllm_app.wire.codec import WireSettings, decode
from fedllm_app.wire.slices import origin_of
from fedllm_app.wire.vector import encode_set

log = logging.getLogger("fedllm")


@dataclass(frozen=True)
class Planned:
    """A method's plan of one round.

    Attributes
    ----------
    plan, method_state : what the method returned.
    inputs : what it looked at.
    step : the set that the server's optimizer may move.
    """

    plan: RoundPlan
    method_state: MethodState
    inputs: Inputs
    step: Where


@dataclass
class Planner:
    """Asks the method for its plan and encodes what goes down.

    Attributes
    ----------
    method, strategy, wire : the method and the settings that it and the codec read.
    layout, fingerprint : of the trainable tensors and of the frozen base.
    initial : values the model was built with: what `fill="initial"` means.
    seed : of the run.
    """

    method: Method
    strategy: StrategySettings
    wire: WireSettings
    layout: ParamLayout
    fingerprint: str
    initial: np.ndarray
    seed: int
    _untrained_logged: bool = False

    def plan(
        self,
        state: RunState,
        params_P: np.ndarray,
        cohort: Sequence[str],
        profiles: Mapping[str, Profile] | None = None,
    ) -> Planned:
        """Return the plan of the next round.

        Raises
        ------
        ConfigError
            If the server's step is drawn by a group or a client: it belongs to all of them.
        """
        inputs = Inputs(
            self.strategy, self.layout, state.round + 1, params_P, cohort, self.seed,
            profiles or {}, self.method.own_settings(self.strategy),
        )  # fmt: skip
        plan, method_state = self.method.plan(inputs, state.method)
        step = expand(plan.step, self.layout, Draw(self.seed, inputs.job))
        return Planned(plan, method_state, inputs, step)

    def requests(self, state: RunState, planned: Planned) -> list[Request]:
        """Return one request per group with clients: jobs that share a plan and its vectors."""
        found, t = [], planned.inputs.job
        for group, plan in planned.plan.groups.items():
            clients = [c for c, g in planned.plan.group_of.items() if g == group]
            if not clients:
                continue
            jobs = tuple(
                Job(
                    t, c, state.clock, state.accepted.get(c, -1), state.saved.get(c, -1),
                    state.earlier.get(c, -1), state.progress.get(c, 0),
                )
                for c in clients
            )  # fmt: skip
            vectors, base = self.downloads(planned, group, plan)
            words = plan.to_json()
            found.append(Request(group, words, vectors, jobs, self.layout.hash, base, t))
        return found

    def downloads(
        self, planned: Planned, group: str, plan: ClientPlan
    ) -> tuple[dict[str, np.ndarray], str]:
        """Return the encoded vectors that a group receives, and upon which base."""
        t, params_P = planned.inputs.job, planned.inputs.params
        draw = Draw(self.seed, t, group)
        where = expand(plan.down, self.layout, draw)
        base = base_of(plan, self.fingerprint, self.initial, where)
        vectors = {
            PARAMS: self._encoded(
                params_P, where, isinstance(plan.down, Positions), base, self.wire.down_values,
                generator(self.seed, "down", t, group),
            )
        }  # fmt: skip
        for name, vector in plan.beside_down.items():
            if name not in planned.plan.vectors:
                raise ConfigError(f"a plan sends the vector {name!r}, which has no values")
            vectors[name] = self._encoded(
                planned.plan.vectors[name], expand(vector.support, self.layout, draw), False, base,
                vector.value_type or self.wire.down_values,
                generator(self.seed, "down", t, group, name),
            )  # fmt: skip
        return vectors, base

    def served(self, state: RunState, params_P: np.ndarray) -> np.ndarray:
        """Return what a device of the served group would hold next, float32 of shape (P,)."""
        planned = self.plan(state, params_P, ())
        group = planned.plan.served
        plan = planned.plan.groups[group]
        vectors, base = self.downloads(planned, group, plan)
        derived = None
        if not isinstance(plan.down, Positions):
            derived = expand(plan.down, self.layout, Draw(self.seed, planned.inputs.job, group))
        update = decode(vectors[PARAMS], origin_of(self.layout, base), derived=derived)
        return device_copy(plan, update.positions, update.values, self.initial)

    def log_untrained(self, planned: Planned) -> None:
        """Say, once, that masks hold nothing of some tensors."""
        groups = planned.plan.groups.values()
        masks = [p.train.idx for p in groups if isinstance(p.train, Positions)]
        if not masks or self._untrained_logged:
            return
        if names := self.layout.missed(reduce(np.union1d, masks)):
            self._untrained_logged = True
            log.warning("round %d trains nothing of %d of %d tensors, e.g. %s: the mask holds no "
                        "entry of them; LoRA's B, zero at first, grows into it at a larger "
                        "server.lr", planned.inputs.job, len(names), len(self.layout.names),
                        names[0])  # fmt: skip

    def _encoded(
        self,
        values_P: np.ndarray,
        where: Where,
        explicit: bool,
        base: str,
        value_type: str,
        rng: np.random.Generator,
    ) -> np.ndarray:
        return encode_set(
            take(values_P, where),
            where,
            origin_of(self.layout, base),
            explicit=explicit,
            value_type=value_type,
            block=self.wire.block,
            rng=rng,
        )
