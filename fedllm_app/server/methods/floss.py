"""FLoSS (Raje 2024, Algorithm 1), FLoSS by tiers of devices, and the dense methods beside it.

Shapes: P trainable parameters.
"""

import numpy as np

from fedllm_app.core.plan import ClientPlan, RoundPlan
from fedllm_app.core.support import All
from fedllm_app.server.methods.base import (
    DOWN_KEYS,
    Inputs,
    Method,
    MethodState,
    one_group,
)
from fedllm_app.server.methods.sparse import (
    BLOCKS,
    FEEDBACK,
    feedback,
    largest_down,
    largest_up,
    mean_of,
)

SPARSE_KEYS = ("head", "mean", *FEEDBACK, *BLOCKS, *DOWN_KEYS)


def dense(inputs: Inputs, state: MethodState) -> tuple[RoundPlan, MethodState]:
    """Send, train and return everything."""
    down_as = inputs.settings.down
    plan = ClientPlan(All(), "zero", All(), All(), down_as=down_as, **feedback(inputs))
    return one_group(plan, inputs.cohort), state


def floss(inputs: Inputs, state: MethodState) -> tuple[RoundPlan, MethodState]:
    """Send the largest weights, train all, return the largest changes.

    M_down is the top `d_down` of abs(P), one global threshold over all tensors together, taken
    afresh from the dense parameters each round; what is not sent is zero on the device. With
    `strategy.down` = "change" it is the top of abs(P - P_0), and the rest is at its start. Each
    device returns the top `d_up` of abs(delta) with a mask of its own.
    """
    settings = inputs.settings
    plan = sparse(inputs, settings.d_down, settings.d_up)
    return one_group(plan, inputs.cohort, mean=mean_of(inputs)), state


def floss_tiers(inputs: Inputs, state: MethodState) -> tuple[RoundPlan, MethodState]:
    """Do the same at a density of the client's tier, for devices of unequal links.

    The model of the densest tier is the one that is evaluated.
    """
    densities = inputs.settings.densities
    names = [f"{tier}-density-{density:.4g}" for tier, density in enumerate(densities)]
    return RoundPlan(
        groups={
            name: sparse(inputs, density, density)
            for name, density in zip(names, densities, strict=True)
        },
        group_of={client: names[inputs.tiers(client, len(names))] for client in inputs.cohort},
        mean=mean_of(inputs),
        served=names[int(np.argmax(densities))],
    ), state


def sparse(inputs: Inputs, d_down: float, d_up: float) -> ClientPlan:
    """Return FLoSS' plan of one client at two densities."""
    down, up = largest_down(inputs, d_down), largest_up(inputs, d_up)
    down_as = inputs.settings.down
    return ClientPlan(down, "zero", All(), up, down_as=down_as, **feedback(inputs))


DENSE = Method(
    dense,
    "Reddi et al. 2021, arXiv 2003.00295 (FedOpt)",
    "Everything sent each way, the server optimizer steps on the mean.",
    keys=DOWN_KEYS,
)
FEDAVG = Method(
    dense,
    "McMahan et al. 2017, arXiv 1602.05629",
    "Everything sent each way, the server takes the mean.",
    keys=DOWN_KEYS,
    server={"optimizer": "sgd"},
    weights="examples",
)
FLOSS = Method(
    floss,
    "Raje 2024, Algorithm 1; arXiv 2406.05233",
    "LoRA trained densely, its largest entries sent each way.",
    keys=("d-down", "d-up", *SPARSE_KEYS),
)
FLOSS_TIERS = Method(
    floss_tiers,
    "Raje 2024, heterogeneous devices; arXiv 2406.05233",
    "FLoSS at the density of a client's tier.",
    keys=("tier-densities", *SPARSE_KEYS),
    tiered=lambda settings: True,
)
