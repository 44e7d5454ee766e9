"""Local steps by device, and densities by link, so that a round's participants finish together.

A round has as many local steps as without it, n times `client.steps`, so as many tokens; who is
fast takes more of them. The clock of the run says how long a step, the download and the upload of
a device last, and the steps are those by which the last device is done the soonest. Steps do not
help a slow link: by key, uploads over it have fewer coordinates.

Shapes: n clients of a round.
"""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import NamedTuple

from fedllm_app.core.effort import Effort
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import ClientPlan, RoundPlan, TopK, Work
from fedllm_app.core.region import size_of
from fedllm_app.core.support import Draw, Positions, expand
from fedllm_app.devices.fleet import DeviceSettings
from fedllm_app.devices.network import Network
from fedllm_app.server.asked import expected_vectors
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
    effort : what a client computes with so much work.
    least : share of its density that an upload keeps at least; 1 leaves densities alone.
    """

    network: Network
    steps: int
    most: float
    effort: Callable[[str, Work], Effort]
    least: float = 1.0

    def balanced(
        self, plan: RoundPlan, layout: ParamLayout, wire: WireSettings, seed: int, t: int
    ) -> RoundPlan:
        """Return a plan whose groups are divided by the steps and densities of their clients."""
        if not plan.group_of:
            return plan

        def took(client: str, share: float = 1.0) -> "Took":
            group = plan.group_of[client]
            own = sparser(plan.groups[group], share)
            return self._took(client, own, layout, wire, Draw(seed, t, group, client))

        clients, most = sorted(plan.group_of), max(1, int(self.most * self.steps))
        took_c, density = {client: took(client) for client in clients}, dict[str, float]()
        if self.least < 1:
            steps = shared_steps(took_c, self.steps, most)
            density = lowered(took_c, steps, self.least)
            took_c |= {c: took(c, share) for c, share in density.items()}
        groups, group_of = dict(plan.groups), {}
        for client, steps_c in shared_steps(took_c, self.steps, most).items():
            group, share = plan.group_of[client], density.get(client, 1.0)
            name = f"{group}/{steps_c}" + (f"/{share:g}" if share < 1 else "")
            own = sparser(plan.groups[group], share)
            groups[name] = replace(own, work=replace(own.work, steps=steps_c))
            group_of[client] = name
        return replace(plan, groups=groups, group_of=group_of)

    def _took(
        self, client: str, plan: ClientPlan, layout: ParamLayout, wire: WireSettings, draw: Draw
    ) -> "Took":
        """Return the seconds of a client's transfers at most, and of one of its steps."""
        where, P = expand(plan.down, layout, replace(draw, client=None)), layout.size
        tensors = stretches_of(where, slices_of(layout)).size
        down = max_bytes(
            size_of(where, P), P, wire.down_values, wire.block, isinstance(plan.down, Positions),
            wire.grid_bits, tensors=tensors,
        )  # fmt: skip
        up = sum(v.most_bytes for v in expected_vectors(plan, layout, draw, wire).values())
        trains = expand(plan.train, layout, draw)
        part = self.network.amount(Effort(1, 1, 1), trains, layout)
        link, one = self.network.link(client), self.network.compute_seconds(client, 1.0)

        def computing(steps: int) -> float:
            effort = self.effort(client, replace(plan.work, steps=steps))
            return one * part * (effort.rows if self.network.fleet else effort.batches)

        return Took(link.seconds(down), link.seconds(None, up), computing)


class Took(NamedTuple):
    """Seconds of a client: of its download, its upload, and so many local steps."""

    down: float
    up: float
    computing: Callable[[int], float]

    def end(self, steps: int, density: float = 1.0) -> float:
        """Return when it is done, if its upload has this share of its coordinates."""
        return self.down + density * self.up + self.computing(steps)


def balance_of(
    network: Network | None,
    devices: DeviceSettings,
    steps: int,
    effort: Callable[[str, Work], Effort],
) -> Balance | None:
    """Return what divides local steps by device, None where nothing does.

    Parameters
    ----------
    steps : client.steps.
    effort : as of `Balance`.
    """
    if network is None or not devices.balance:
        return None
    return Balance(network, steps, devices.balance_most, effort, devices.balance_density)


def sparser(plan: ClientPlan, share: float) -> ClientPlan:
    """Return a plan whose uploads have this share of their density, where the device chooses."""
    if share >= 1 or not isinstance(plan.up, TopK):
        return plan
    return replace(plan, up=replace(plan.up, density=share * plan.up.density))


def lowered(took: Mapping[str, Took], steps: Mapping[str, int], least: float) -> dict[str, float]:
    """Return the share of their density that clients send who would be done after the median one.

    Shares are halves of halves, so that there are few groups: the largest with which a client is
    done by then, or the smallest that is allowed.

    Parameters
    ----------
    steps : that they take.
    least : the smallest share.
    """
    until, found = median(one.end(steps[c]) for c, one in took.items()), {}
    for client, one in took.items():
        share = 1.0
        while share / 2 >= least and one.end(steps[client], share) > until:
            share /= 2
        if share < 1:
            found[client] = share
    return found


def shared_steps(costs: Mapping[str, Took], each: int, most: int) -> dict[str, int]:
    """Return the steps of every client, n times `each` in all, so that the last is done soonest.

    Everyone takes one; each further step goes to the client that would be done with it first.

    Parameters
    ----------
    costs : seconds by client.
    most : of one client.
    """
    taken = dict.fromkeys(costs, 1)
    ends = [(one.end(2), client) for client, one in costs.items() if most > 1]
    heapq.heapify(ends)
    for _ in range(len(costs) * (each - 1)):
        if not ends:
            break
        _, client = heapq.heappop(ends)
        taken[client] += 1
        if taken[client] < most:
            heapq.heappush(ends, (costs[client].end(taken[client] + 1), client))
    return taken
