"""How much of a step each client of a planned round computes, in steps that train all."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from fedllm_app.client.rules import batches_on
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


class Known(Protocol):
    """What a predictor knows.

    Attributes
    ----------
    network : the clock.
    counts : examples by client.
    batch : of the step whose FLOPs the clock has.
    """

    network: Network | None
    counts: Mapping[str, int]
    batch: int


def whole_steps(
    known: Known, c: RunConfig, shares: Mapping[str, float], clients: Iterable[str]
) -> dict[str, float]:
    """Return the batches of each client, in those that train all of a batch as it is known."""
    larger = c.client.batch / known.batch if known.network and known.network.fleet else 1.0
    found = {}
    for client in clients:
        steps = batches_on(c.client, known.counts[client])
        whole = known.network.whole_steps(steps, shares.get(client, 1.0)) if known.network else 0.0
        found[client] = whole * larger
    return found


def shares(rounds: Sequence[Mapping[str, tuple[Payload, Payload]]], P: int) -> np.ndarray:
    """Return the logarithms of the mean shares of P that travel down and up."""
    both = np.array([(down.K, up.K) for r in rounds for down, up in r.values()], np.float64)
    return np.asarray(np.log(np.maximum(both.mean(0), 1) / P))
