"""Predict what a run will cost, round by round, without training anything.

The bytes of a payload follow from how many coordinates it holds and a little from where they lie.
How many is known: the method itself is asked for its plans, on parameters as large as real ones.
Where is known for what the server chooses; what a device will choose is taken as spread evenly,
which is the dearest case, or as unevenly as in finished runs that it was told to learn from
(docs/planner.md). The payload is then encoded by the real codec and measured. Cohorts come from
(seed, round), so who takes part, who is new and over which link is exact.

Shapes: P trainable parameters, K coordinates of a payload, N rounds.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedllm_app.config import RunConfig
from fedllm_app.core.counts import eligible
from fedllm_app.core.errors import ConfigError
from fedllm_app.core.heads import Heads
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import ClientPlan, RoundPlan, TopK
from fedllm_app.core.region import Where
from fedllm_app.core.region import positions_of as as_positions
from fedllm_app.core.region import size_of as set_size
from fedllm_app.core.seeds import generator
from fedllm_app.core.support import Derived, Draw, Positions, Support, expand
from fedllm_app.devices.available import present_of
from fedllm_app.devices.network import Network
from fedllm_app.parts import Parts
from fedllm_app.server.asked import expected
from fedllm_app.server.balance import balance_of
from fedllm_app.server.methods import method_of
from fedllm_app.server.methods.base import Inputs, MethodState
from fedllm_app.server.methods.shares import tiers_of
from fedllm_app.server.sampling import sample_cohort
from fedllm_app.server.tiers import by_tier
from fedllm_app.study.alike import same, signature
from fedllm_app.study.costs import Costs, Payload, beside_bytes, measured, positions_of
from fedllm_app.study.effort import amounts, effort, shares
from fedllm_app.study.rank import Rank
from fedllm_app.study.uneven import Uneven
from fedllm_app.wire.codec import PayloadSize, dense_bytes, encode, max_bytes, size_of
from fedllm_app.wire.header import GRID
from fedllm_app.wire.select import without
from fedllm_app.wire.slices import origin_of, slices_of
from fedllm_app.wire.uniform import stretches_of

WAYS = ("down", "up")
NO_BASE = "0" * 32  # a name of 32 digits: lengths do not depend on it


class Predictor:
    """Predicts configurations that share data, base, seed and links.

    Parameters
    ----------
    layout : of the loaded model; other ranks are derived from it.
    initial : the values it was built with, float32 of shape (P,).
    base_client_bytes : what a device downloads once.
    counts : examples by client.
    network : links and speeds of the clients, None where seconds are not asked for.

    Attributes
    ----------
    uneven : what the runs that `learn` was told of say of the bytes of positions.
    cohorts : those that were drawn before.
    """

    def __init__(
        self,
        layout: ParamLayout,
        initial: np.ndarray,
        base_client_bytes: int,
        counts: Mapping[str, int],
        network: Network | None = None,
        heads: Heads | None = None,
    ) -> None:
        self.layout, self.initial, self.heads, self.uneven = layout, initial, heads, Uneven()
        self.base_client_bytes, self.counts, self.network = base_client_bytes, counts, network
        self.tiers = tiers_of(network.fleet if network else None)
        self._sizes: dict[tuple[object, ...], PayloadSize] = {}
        self._params: dict[int, Rank] = {}
        self.cohorts: dict[object, list[str]] = {}

    @classmethod
    def of(cls, parts: Parts, network: Network | None) -> "Predictor":
        """Return the predictor of a loaded configuration.

        Raises
        ------
        ConfigError
            If nobody here knows the clients: data.train is "node" and no file has their links.
        """
        counts: Mapping[str, int] = dict.fromkeys(network.own, 1) if network else {}
        if parts.config.data.train != "node":
            counts = parts.counts()
        if not counts:
            raise ConfigError(
                "data.train is 'node', so no client is known here; name them in a file of links "
                "(--links), or plan with a data set in place of the devices' own"
            )
        return cls(
            parts.model.layout, parts.initial, parts.model.base_bytes, counts, network,
            parts.heads,
        )  # fmt: skip

    def costs(self, config: RunConfig) -> Costs:
        """Return what each round of `config` will cost if every client answers."""
        c = config.resolved()
        costs, met = Costs.zeros(c.run.rounds), set[str]()
        planned = _Rounds(self, c)
        rounds = planned.all()
        sent = shares(rounds, planned.layout.size)
        down_N, up_N = (self.uneven.taken(way, sent, c.run.rounds) for way in WAYS)
        for t, payloads in enumerate(rounds, start=1):
            i, new = t - 1, payloads.keys() - met
            met |= new
            sizes = {
                client: (down.length(down_N[i]), up.length(up_N[i]))
                for client, (down, up) in payloads.items()
            }
            costs.down_bytes[i] = sum(down for down, _ in sizes.values())
            costs.up_bytes[i] = sum(up for _, up in sizes.values())
            for down, up in payloads.values():
                costs.down_coordinates[i] += down.K
                costs.up_coordinates[i] += up.K
            costs.base_bytes[i] = len(new) * self.base_client_bytes
            if self.network:
                base = dict.fromkeys(new, self.base_client_bytes)
                counts = {client: self.counts[client] for client in sizes}
                own = self.network, c, counts, planned.layout
                computed = planned.amounts.get(t) or amounts(*own)
                costs.put_seconds(t, sizes, base, self.network, computed)
        return costs

    def learn(self, config: RunConfig, folder: Path) -> None:
        """Take from a finished run how unevenly its supports were spread.

        Parameters
        ----------
        config, folder : of the run, on the same data and base.

        Raises
        ------
        ConfigError
            If it trained another model than this one.
        """
        run = config.run.model_copy(update={"rounds": measured(folder).rounds})
        planned = _Rounds(self, config.resolved().model_copy(update={"run": run}))
        paid, dense = positions_of(folder, run.rounds)
        if dense != dense_bytes(planned.layout.size):
            raise ConfigError(
                f"--like is {str(folder)!r}, a run of {dense} bytes in a dense payload; expected "
                f"{dense_bytes(planned.layout.size)}, a run on this data and model with the same "
                "adapters but for their rank"
            )
        rounds = planned.all()
        sent = shares(rounds, planned.layout.size)
        for i, way in enumerate(WAYS):
            even_N = np.array([sum(both[i].positions for both in r.values()) for r in rounds])
            self.uneven.learn(way, sent, paid[way], even_N)

    def rank(self, rank: int) -> "Rank":
        """Return layout and plausible parameters of a rank."""
        if rank not in self._params:
            self._params[rank] = Rank(self.layout, self.initial, rank)
        return self._params[rank]

    def payload(self, support: Support | None, K: int, within: Where,
                layout: ParamLayout, value_type: str, block: int,
                always: np.ndarray | None = None, grid_bits: float = 0.0,
                ) -> Payload:  # fmt: skip
        """Return the payload of K coordinates.

        Parameters
        ----------
        support : explicit positions; a device's choice is None, inside `within` (None: all P).
            Anything else is `within`, and costs no bytes for positions.
        always : positions that a device's choice holds in any case.
        """
        P, explicit = layout.size, isinstance(support, Positions)
        if support is not None and (not explicit or value_type == GRID):
            tensors = stretches_of(within, slices_of(layout)).size
            return Payload(max_bytes(K, P, value_type, block, explicit, grid_bits, tensors), K)
        W: object = P if within is None else within.size
        if isinstance(support, Positions):
            W = hashlib.blake2b(support.idx.tobytes()).digest()
        whole = 0 if always is None else always.size
        key = (W, K, whole, P, value_type, block)
        if key not in self._sizes:
            rng = generator(0, "support", K, P)
            if isinstance(support, Positions):
                idx = support.idx
            else:
                free = without(P, within if within is None else as_positions(within, P), always)
                idx = rng.choice(P if free is None else free, K - whole, replace=False)
                idx = np.sort(idx if always is None else np.concatenate([idx, always]))
            packed = encode(
                np.zeros(K, np.float32), idx.astype(np.int64), origin_of(layout, NO_BASE),
                value_type=value_type, block=block, rng=rng,
            )  # fmt: skip
            self._sizes[key] = size_of(packed)
        size = self._sizes[key]
        return Payload(size.total, K, size.positions)


class _Rounds:
    """The rounds of one configuration, as its method plans them."""

    def __init__(self, predictor: Predictor, c: RunConfig) -> None:
        self.predictor, self.c = predictor, c
        adapters = c.model.train == "lora"
        self.rank = predictor.rank(c.lora.rank if adapters else 0)
        self.layout = self.rank.layout
        fleet = predictor.network.fleet if predictor.network else None
        self.present = present_of(fleet, predictor.counts, c.run.seed)
        self.amounts: dict[int, dict[str, float]] = {}  # what a client computes, by round
        self.balance = balance_of(
            predictor.network, c.devices, c.client.steps,
            lambda client, work: effort(c, work, predictor.counts[client]),
        )  # fmt: skip

    def all(self) -> Sequence[dict[str, tuple[Payload, Payload]]]:
        """Return (down, up) by client for every round.

        A plan that is the same in two rounds and in the last, with the same method state, is
        taken to be the same in between. Only plans of one group without derived supports are
        compared so; any other is asked for in each round.
        """
        N, state, before = self.c.run.rounds, dict[str, np.ndarray](), ""
        look = not self.c.devices.tiered
        rounds: list[dict[str, tuple[Payload, Payload]]] = []
        for t in range(1, N + 1):
            plan, after = self.plan(t, state)
            rounds.append(self.payloads(t, plan))
            now = signature(plan)
            if look and now and now == before and t < N and same(state, after):
                if signature(self.plan(N, after)[0]) == now:
                    both = next(iter(rounds[-1].values()))
                    rest = range(t + 1, N + 1)
                    return rounds + [dict.fromkeys(self.cohort(t), both) for t in rest]
                look = False
            before, state = now, dict(after)
        return rounds

    def cohort(self, t: int) -> list[str]:
        """Return the clients of round `t`, as the loop draws them from those that are there."""
        counts, known = self.predictor.counts, self.predictor.cohorts
        drawn = self.c.round.sized(len(eligible(counts))).cohort, self.c.run.seed, t
        if (self.present, *drawn) not in known:
            known[self.present, *drawn] = sample_cohort(self.present(counts, t), *drawn)
        return known[self.present, *drawn]

    def plan(self, t: int, state: MethodState) -> tuple[RoundPlan, MethodState]:
        params = self.rank.start if t == 1 else self.rank.grown
        accepted = dict.fromkeys(self.cohort(t - 1), t - 1) if t > 1 else {}
        inputs = Inputs(
            self.c.strategy, self.layout, t, params, self.rank.start, self.cohort(t),
            self.c.run.seed, accepted=accepted, heads=self.predictor.heads,
            tiers=self.predictor.tiers,
        )  # fmt: skip
        plan, after = method_of(self.c.strategy.name).plan(inputs, state)
        plan = by_tier(plan, self.c.devices, self.predictor.tiers)
        if self.balance is not None:
            plan = self.balance.balanced(plan, self.layout, self.c.wire, self.c.run.seed, t)
        return plan, after

    def payloads(self, t: int, plan: RoundPlan) -> dict[str, tuple[Payload, Payload]]:
        if network := self.predictor.network:
            own = network, self.c, self.predictor.counts, self.layout
            self.amounts[t] = amounts(*own, plan, t)
        downs = {name: self.down(t, name, group) for name, group in plan.groups.items()}
        return {
            client: (downs[name], self.up(t, name, client, plan.groups[name]))
            for client, name in plan.group_of.items()
        }

    def down(self, t: int, name: str, plan: ClientPlan) -> Payload:
        draw = Draw(self.c.run.seed, t, name)
        where = expand(plan.down, self.layout, draw)
        K, wire = set_size(where, self.layout.size), self.c.wire
        how = (self.layout, wire.down_values, wire.block, None, wire.grid_bits)
        made = self.predictor.payload(plan.down, K, where, *how)
        more = beside_bytes(plan.beside_down, self.layout, draw, wire.down_values, wire.block)
        return replace(made, size=made.size + more)

    def up(self, t: int, group: str, client: str, plan: ClientPlan) -> Payload:
        """Return the payload of a client of a group in round `t`."""
        wire, draw = self.c.wire, Draw(self.c.run.seed, t, group, client)
        up = expected(plan.up, self.layout, draw, wire.up_values, wire.block)
        # Positions that went down, or are derived, cost nothing.
        support = None if isinstance(plan.up, TopK) else Derived("sent")
        how = (self.layout, wire.up_values, wire.block, up.always)
        made = self.predictor.payload(support, up.count, up.within, *how)
        more = beside_bytes(plan.beside_up, self.layout, draw, wire.up_values, wire.block)
        return replace(made, size=made.size + more)
