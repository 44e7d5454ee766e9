"""Methods that train whole tensors or ranks: FFA-LoRA and HetLoRA. Their positions cost no bytes.

Shapes: P trainable parameters, R rank of the bank.
"""

import numpy as np

from fedllm_app.core.plan import ClientPlan, RoundPlan
from fedllm_app.core.rules import RANK_SLICES
from fedllm_app.core.support import Derived
from fedllm_app.server.methods.base import (
    DOWN_KEYS,
    Inputs,
    Method,
    MethodState,
    one_group,
)
from fedllm_app.server.methods.sparse import mean_of

NO_A = Derived("tensors", {"without": ["*.lora_A.*", "*lora_embedding_A*"]})


def ffa_lora(inputs: Inputs, state: MethodState) -> tuple[RoundPlan, MethodState]:
    """Train and send B and the head; A stays as the seed drew it, on server and devices alike."""
    plan = ClientPlan(NO_A, "initial", NO_A, NO_A, down_as=inputs.settings.down)
    return one_group(plan, inputs.cohort, step=NO_A), state


def hetlora(inputs: Inputs, state: MethodState) -> tuple[RoundPlan, MethodState]:
    """Give a client the first r ranks of the bank, r by its tier; it holds and trains no more.

    Every device scales its adapters by alpha / R of the bank, whatever its own rank, so that a
    rank means the same everywhere. The model of the largest tier is the one that is evaluated.
    """
    ranks = inputs.settings.ranks
    names = [f"rank-{rank}" for rank in ranks]
    groups, down_as = {}, inputs.settings.down
    for name, rank in zip(names, ranks, strict=True):
        slices = Derived(RANK_SLICES, {"rank": rank})
        groups[name] = ClientPlan(slices, "zero", slices, slices, down_as=down_as)
    return RoundPlan(
        groups=groups,
        group_of={client: names[inputs.tiers(client, len(names))] for client in inputs.cohort},
        mean=mean_of(inputs),
        served=names[int(np.argmax(ranks))],
    ), state


FFA_LORA = Method(
    ffa_lora,
    "Sun et al. 2024, arXiv 2403.12313",
    "A frozen as drawn; B and the head trained and sent.",
    keys=DOWN_KEYS,
    needs_lora=True,
)
HETLORA = Method(
    hetlora,
    "Cho et al. 2024, arXiv 2401.06432; as in Raje 2024",
    "Each client holds the first ranks of the adapters, as many as its tier.",
    keys=("tier-ranks", "mean", *DOWN_KEYS),
    mean="senders",
    needs_lora=True,
    tiered=lambda settings: True,
)
