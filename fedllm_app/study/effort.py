"""How much of a step each client of a planned round computes, in steps that train all."""

from collections.abc import Mapping

from fedllm_app.core.layout import ParamLayout
from fedllm_app.core.plan import RoundPlan
from fedllm_app.core.support import Derived, Draw, expand
from fedllm_app.devices.network import Network
from fedllm_app.server.asked import trained_share


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
    network: Network, steps: Mapping[str, int], shares: Mapping[str, float]
) -> dict[str, float]:
    """Return the local steps of each client, in steps that train all."""
    return {c: network.whole_steps(own, shares.get(c, 1.0)) for c, own in steps.items()}
