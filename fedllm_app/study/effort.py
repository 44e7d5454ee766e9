"""What each client of a planned round computes."""

from collections.abc import Mapping, Sequence

import numpy as np

from fedllm_app.client.effort import effort_of
from fedllm_app.client.settings import STREAM
from fedllm_app.config import RunConfig
from fedllm_app.core.effort import Effort
from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import RoundPlan, Work
from fedllm_app.core.region import Where
from fedllm_app.core.support import Derived, Draw, expand
from fedllm_app.devices.network import Network
from fedllm_app.study.costs import Payload


def trained(plan: RoundPlan, layout: ParamLayout, seed: int, t: int) -> dict[str, Where]:
    """Return the coordinates that each client trains, {} where no rule draws a part."""
    if not any(isinstance(group.train, Derived) for group in plan.groups.values()):
        return {}
    return {
        client: expand(plan.groups[name].train, layout, Draw(seed, t, name, client))
        for client, name in plan.group_of.items()
    }


def amounts(
    network: Network,
    c: RunConfig,
    counts: Mapping[str, int],
    layout: ParamLayout,
    plan: RoundPlan | None = None,
    t: int = 0,
) -> dict[str, float]:
    """Return what each client of a round computes.

    Parameters
    ----------
    network : the clock.
    counts : examples of all clients that may take part.
    plan : of round `t`; None is one in which all of `counts` train everything, as c.client says.
    """
    trains = trained(plan, layout, c.run.seed, t) if plan else {}
    group_of = plan.group_of if plan else dict.fromkeys(counts, "")
    found = {}
    for client, name in group_of.items():
        work = plan.groups[name].work if plan else Work()
        computed = effort(c, work, counts[client])
        found[client] = network.amount(computed, trains.get(client), layout)
    return found


def effort(c: RunConfig, work: Work, examples: int) -> Effort:
    """Return what a job of a configuration computes."""
    return effort_of(c.client, work, examples, c.reading == STREAM)


def shares(rounds: Sequence[Mapping[str, tuple[Payload, Payload]]], P: int) -> np.ndarray:
    """Return the logarithms of the mean shares of P that travel down and up."""
    both = np.array([(down.K, up.K) for r in rounds for down, up in r.values()], np.float64)
    return np.asarray(np.log(np.maximum(both.mean(0), 1) / P))
