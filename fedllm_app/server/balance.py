"""Local steps by device, so that the participants of a round finish together.

A round has as many local steps as without it, n times `client.steps`, so as many tokens; who is
fast takes more of them. The clock of the run says how long a step, the download and the upload of
a device last, and the steps are those by which the last device is done the soonest.

Shapes: n clients of a round.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, replace

from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import ClientPlan, RoundPlan
from fedllm_app.core.region import size_of
from fedllm_app.core.support import Draw, Positions, expand
from fedllm_app.devices.network import Network
from fedllm_app.server.asked import expected_vectors, trained_share
from fedllm_app.wire.codec import WireSettings, max_bytes
from fedllm_app.wire.slices import slices_of
from fedllm_app.wire.uniform import stretches_of


@dataclass(frozen=True)
class Balance:
    """Divides a round's steps among its clients.

    Attributes
    ----------
    network : the clock, with the devices.
    steps : of a client, if all were alike: client.steps.
    most : times `steps` that one client takes at most.
    """

    network: Network
    steps: int
    most: float

    def balanced(
        self, plan: RoundPlan, layout: ParamLayout, wire: WireSettings, seed: int, t: int
    ) -> RoundPlan:
        """Return a plan whose groups are divided by the steps of their clients."""
        if not plan.group_of:
            return plan
        costs = {
            client: self._costs(
                client, plan.groups[group], layout, wire, Draw(seed, t, group, client)
            )
            for client, group in sorted(plan.group_of.items())
        }
        taken = shared_steps(costs, self.steps, max(1, int(self.most * self.steps)))
        groups, group_of = dict(plan.groups), {}
        for client, steps in taken.items():
            group = plan.group_of[client]
            name = f"{group}/{steps}"
            own = plan.groups[group]
            groups[name] = replace(own, work=replace(own.work, steps=steps))
            group_of[client] = name
        return replace(plan, groups=groups, group_of=group_of)

    def _costs(
        self, client: str, plan: ClientPlan, layout: ParamLayout, wire: WireSettings, draw: Draw
    ) -> tuple[float, float]:
        """Return the seconds of a client's transfers at most, and of one of its steps."""
        where, P = expand(plan.down, layout, replace(draw, client=None)), layout.size
        tensors = stretches_of(where, slices_of(layout)).size
        down = max_bytes(
            size_of(where, P), P, wire.down_values, wire.block, isinstance(plan.down, Positions),
            wire.grid_bits, tensors=tensors,
        )  # fmt: skip
        up = sum(v.most_bytes for v in expected_vectors(plan, layout, draw, wire).values())
        transfers = self.network.link(client).seconds(down, up)
        share = trained_share(expand(plan.train, layout, draw), layout)
        whole = self.network.whole_steps(1, share)
        return transfers, self.network.compute_seconds(client, whole)


def shared_steps(costs: Mapping[str, tuple[float, float]], each: int, most: int) -> dict[str, int]:
    """Return the steps of every client, n times `each` in all, so that the last is done soonest.

    Everyone takes one; each further step goes to the client that would be done with it first.

    Parameters
    ----------
    costs : seconds of transfers and of a step, by client.
    most : of one client.
    """
    taken = dict.fromkeys(costs, 1)
    ends = [(fixed + 2 * step, client) for client, (fixed, step) in costs.items() if most > 1]
    heapq.heapify(ends)
    for _ in range(len(costs) * (each - 1)):
        if not ends:
            break
        end, client = heapq.heappop(ends)
        taken[client] += 1
        if taken[client] < most:
            heapq.heappush(ends, (end + costs[client][1], client))
    return taken
