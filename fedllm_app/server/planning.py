"""A round before it begins: the method's plan, checked, and what goes down, encoded.

Shapes: P trainable parameters.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

import numpy as np

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.heads import Heads
from fedllm_app.core.holding import base_of, device_copy
from fedllm_app.core.job import Job, Profile, Request
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import PARAMS, ClientPlan, RoundPlan
from fedllm_app.core.region import Where, take
from fedllm_app.core.state import RunState
from fedllm_app.core.support import All, Draw, Positions, expand
from fedllm_app.core.versions import DOWNLOAD, with_version
from fedllm_app.devices.fleet import DeviceSettings
from fedllm_app.server.balance import Balance
from fedllm_app.server.downloads import WHOLE, Sent, downloads_since
from fedllm_app.server.methods.base import Inputs, Method, MethodState
from fedllm_app.server.methods.settings import StrategySettings
from fedllm_app.server.methods.shares import Tiers, tier_of
from fedllm_app.server.tiers import by_tier
from fedllm_app.wire.codec import WireSettings, decode
from fedllm_app.wire.header import GRID
from fedllm_app.wire.slices import origin_of
from fedllm_app.wire.vector import encode_set

log = logging.getLogger("fedllm")
Held = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Planned:
    """A method's plan of one round.

    Attributes
    ----------
    plan, method_state : what the method returned.
    inputs : what it looked at.
    step : the set that the server's optimizer may move.
    encoded : the vectors of each group and their base, once they were asked for.
    """

    plan: RoundPlan
    method_state: MethodState
    inputs: Inputs
    step: Where
    encoded: dict[str, tuple[dict[str, np.ndarray], str]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Serving:
    """The model that a device of the served group would receive next.

    Attributes
    ----------
    request : what brings it to a device, without jobs.
    values : what the device makes of it, float32 of shape (P,).
    """

    request: Request
    values: np.ndarray


@dataclass
class Planner:
    """Asks the method for its plan and encodes what goes down.

    Attributes
    ----------
    method, strategy, wire : the method and the settings that it and the codec read.
    layout, fingerprint : of the trainable tensors and of the frozen base.
    initial : values the model was built with: what `fill="initial"` means.
    seed : of the run.
    heads : where attention heads lie in the layout, None where there are none.
    tiers : the tier of a client, of so many.
    spoken : returns the same from what real devices say of themselves, None where they do not.
    balance : divides local steps by device, None where all take the same.
    devices : says steps and batches by tier.
    """

    method: Method
    strategy: StrategySettings
    wire: WireSettings
    layout: ParamLayout
    fingerprint: str
    initial: np.ndarray
    seed: int
    heads: Heads | None = None
    tiers: Tiers = tier_of
    balance: Balance | None = None
    spoken: Callable[[Mapping[str, Profile]], Tiers] | None = None
    devices: DeviceSettings = field(default_factory=DeviceSettings)
    _untrained_logged: bool = False

    def plan(
        self,
        state: RunState,
        params_P: np.ndarray,
        cohort: Sequence[str],
        profiles: Mapping[str, Profile] | None = None,
        clients: int = 0,
    ) -> Planned:
        """Return the plan of the next round.

        Parameters
        ----------
        clients : how many with examples there are.

        Raises
        ------
        ConfigError
            If the server's step is drawn by a group or a client: it belongs to all of them.
        """
        tiers = self.spoken(profiles or {}) if self.spoken else self.tiers
        inputs = Inputs(
            self.strategy, self.layout, state.round + 1, params_P, self.initial, cohort, self.seed,
            profiles or {}, self.method.own_settings(self.strategy), state.accepted,
            clients, heads=self.heads, tiers=tiers,
        )  # fmt: skip
        plan, method_state = self.method.plan(inputs, state.method)
        plan = by_tier(plan, self.devices, tiers)
        if self.balance is not None:
            plan = self.balance.balanced(plan, self.layout, self.wire, self.seed, inputs.job)
        groups = {name: self._remembered(group) for name, group in plan.groups.items()}
        plan = replace(plan, groups=groups)
        step = expand(plan.step, self.layout, Draw(self.seed, inputs.job))
        return Planned(plan, method_state, inputs, step)

    def requests(
        self, state: RunState, planned: Planned, ids: Mapping[str, int]
    ) -> tuple[list[Request], Held]:
        """Return jobs that share a plan and its vectors, and what clients may hold after them.

        There is one request for each group with clients; more where some hold an earlier download.

        Parameters
        ----------
        ids : of the job of each client that is asked.
        """
        found, held, t, groups = [], state.downloads, planned.inputs.job, planned.plan.groups
        for group, plan in groups.items():
            clients = [c for c, g in planned.plan.group_of.items() if g == group and c in ids]
            if not clients:
                continue
            if group not in planned.encoded:
                twin = next((g for g in planned.encoded if _alike(groups[g], plan)), "")
                planned.encoded[group] = (
                    planned.encoded[twin] if twin else self.downloads(planned, group, plan)
                )
            vectors, base = planned.encoded[group]
            sent: Sent = {WHOLE: (vectors[PARAMS], clients)}
            if DOWNLOAD in plan.keeps:
                sent, version = downloads_since(
                    state, group, clients, vectors[PARAMS], self.layout, base
                )
                held = with_version(held, group, t, version, self.strategy.down_history)
            words, layout = plan.to_json(), self.layout.hash
            for job, (payload, own) in sent.items():
                jobs = tuple(self._job(state, ids[client], client) for client in own)
                both = {**vectors, PARAMS: payload}
                found.append(Request(group, words, both, jobs, layout, base, t, job))
        return found, held

    def downloads(
        self, planned: Planned, group: str, plan: ClientPlan
    ) -> tuple[dict[str, np.ndarray], str]:
        """Return the encoded vectors that a group receives, and upon which base."""
        t, params_P = planned.inputs.job, planned.inputs.params
        draw = Draw(self.seed, t, group)
        where = expand(plan.down, self.layout, draw)
        base = base_of(plan, self.fingerprint, self.initial, where)
        values = take(params_P, where)
        if plan.down_as == "change":
            values = values - take(self.initial, where)
        explicit = isinstance(plan.down, Positions)
        vectors = {PARAMS: self._encoded(values, where, explicit, base, self.wire.down_values)}
        for name, vector in plan.beside_down.items():
            if name not in planned.plan.vectors:
                raise ConfigError(f"a plan sends the vector {name!r}, which has no values")
            own = expand(vector.support, self.layout, draw)
            values = take(planned.plan.vectors[name], own)
            value_type = vector.value_type or self.wire.down_values
            vectors[name] = self._encoded(values, own, False, base, value_type)
        return vectors, base

    def served(self, state: RunState, params_P: np.ndarray) -> Serving:
        """Return the model that a device of the served group would receive next."""
        planned = self.plan(state, params_P, ())
        group = planned.plan.served
        whole = planned.plan.groups[group]
        # What it is made of, without what a device would do with it.
        plan = ClientPlan(down=whole.down, fill=whole.fill, down_as=whole.down_as)
        vectors, base = self.downloads(planned, group, plan)
        derived = None
        if not isinstance(plan.down, Positions):
            derived = expand(plan.down, self.layout, Draw(self.seed, planned.inputs.job, group))
        update = decode(vectors[PARAMS], origin_of(self.layout, base), derived=derived)
        values = device_copy(plan, update.positions, update.values, self.initial)
        words, layout, t = plan.to_json(), self.layout.hash, planned.inputs.job
        return Serving(Request(group, words, vectors, (), layout, base, t), values)

    def _remembered(self, plan: ClientPlan) -> ClientPlan:
        """Return a plan with what a device keeps of its download, where one may go on from it."""
        on_grid = self.strategy.down_history and self.wire.down_values == GRID
        if on_grid and plan.down_as == "change" and isinstance(plan.down, All):
            return replace(plan, keeps=plan.keeps | {DOWNLOAD})
        return plan

    def _job(self, state: RunState, id_: int, client: str) -> Job:
        return Job(
            id_, client, state.clock, state.accepted.get(client, -1), state.saved.get(client, -1),
            state.earlier.get(client, -1), state.progress.get(client, 0),
        )  # fmt: skip

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
        values: np.ndarray,
        where: Where,
        explicit: bool,
        base: str,
        value_type: str,
    ) -> np.ndarray:
        """Return a payload; it is rounded to the nearest, since nobody averages downloads."""
        return encode_set(
            values,
            where,
            origin_of(self.layout, base),
            explicit=explicit,
            value_type=value_type,
            block=self.wire.block,
            grid_bits=self.wire.grid_bits,
        )


def _alike(plan: ClientPlan, other: ClientPlan) -> bool:
    """Say whether two groups are sent the same: the same parameters in one form, and no more."""
    one = isinstance(plan.down, All) and isinstance(other.down, All)
    return (
        (one or (isinstance(plan.down, Positions) and plan.down is other.down))
        and not plan.beside_down
        and not other.beside_down
        and (plan.down_as, plan.fill) == (other.down_as, other.fill)
    )
