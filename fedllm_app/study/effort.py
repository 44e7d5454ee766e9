"""How much of a step each client of a planned round computes, in steps that train all."""

from collections.abc import Mapping, Sequence

import numpy as np

from fedllm_app.client.rules import steps_before
from fedllm_app.config import RunConfig
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import RoundPlan
from fedllm_app.core.support import Derived, Draw, expand
from fedllm_app.devices.network import Network
from fedllm_app.server.asked import trained_share
from fedllm_app.study.costs import Payload


def trained_shares(plan: RoundPlan, layout: ParamLayout, seed: int, t: int) -> dict[str, float]:
    """Return the share of the values that each client trains, {} where no rule draws a part."""
    if not any(isinstance(group.train, Derived) for group in plan.groups.values()):
        return {}
    return {
        client: trained_share(
            expand(plan.groups[name].train, layout, Draw(seed, t, name, client)), layout
        )
        for client, name in plan.group_of.items()
    }


def whole_steps(
    network: Network,
    batch: int,
    c: RunConfig,
    counts: Mapping[str, int],
    shares: Mapping[str, float],
    planned: Mapping[str, int],
) -> dict[str, float]:
    """Return the batches of each client, in those that train all of a batch as it is known.

    Parameters
    ----------
    network : the clock.
    batch : of the step whose FLOPs the clock has.
    counts : examples of the clients that take part.
    shares : of the values that a client trains, where that is not all.
    planned : local steps of a client, where its plan has a number of its own.
    """
    larger, found = times_as_large(network, batch, c), {}
    for client, n in counts.items():
        steps = (planned.get(client) or c.client.steps_on(n)) + steps_before(c.client, n)
        found[client] = larger * network.whole_steps(steps, shares.get(client, 1.0))
    return found


def times_as_large(network: Network | None, batch: int, c: RunConfig) -> float:
    """Return how many times as large a batch is as that of the step which the clock has."""
    return c.client.batch / batch if network and network.fleet else 1.0


def shares(rounds: Sequence[Mapping[str, tuple[Payload, Payload]]], P: int) -> np.ndarray:
    """Return the logarithms of the mean shares of P that travel down and up."""
    both = np.array([(down.K, up.K) for r in rounds for down, up in r.values()], np.float64)
    return np.asarray(np.log(np.maximum(both.mean(0), 1) / P))
