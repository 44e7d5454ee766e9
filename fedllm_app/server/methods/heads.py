"""Attention heads: every client trains some heads of each layer, and sends those.

Source: Szablewski, Sani, Lane 2025 (a one-page abstract, no numbers): disjoint training of heads
over devices of unequal strength; each head is averaged over the clients that trained it.

Both sides derive the slices from the round, so positions cost no bytes; a device computes no
gradient of the heads that it leaves out, and has no optimizer state for them. What belongs to no
head (biases of W_o, norms, MLP, embeddings, a task head) is trained by every client, or by none.

Shapes: P trainable parameters, G units of attention (key-value groups).
"""

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.heads import Heads
from fedllm_app.core.plan import ClientPlan, RoundPlan
from fedllm_app.core.rules import HEAD_SLICES
from fedllm_app.core.support import Derived
from fedllm_app.server.methods.base import DOWN_KEYS, Inputs, Method, MethodState
from fedllm_app.server.methods.sparse import mean_of


def heads(inputs: Inputs, state: MethodState) -> tuple[RoundPlan, MethodState]:
    """Deal the units of a round's order out among the cohort, one client after another.

    Clients share no head until all are dealt; then it begins again, so that each is trained by
    almost equally many.
    """
    of, shares = _units(inputs), inputs.settings.head_shares
    everything = ClientPlan(down_as=inputs.settings.down)
    groups, group_of, first = {"all": everything}, {}, 0
    for client in sorted(inputs.cohort):
        count = max(1, round(shares[inputs.tiers(client, len(shares))] * of.of))
        name = "all" if count >= of.of else f"{count}-from-{first % of.of}"
        if name not in groups:
            args = of.args(first, count, inputs.settings.beside_heads == "frozen")
            mine = Derived(HEAD_SLICES, args, per=("round",))
            groups[name] = ClientPlan(train=mine, up=mine, down_as=inputs.settings.down)
        group_of[client], first = name, first + count
    return RoundPlan(groups, group_of, mean=mean_of(inputs)), state


def _units(inputs: Inputs) -> Heads:
    """Return the units of the model's attention.

    Raises
    ------
    ConfigError
        If there are none among what is trained.
    """
    known = inputs.heads
    if known is None or not known.of:
        why = f" ({known.why})" if known and known.why else ""
        raise ConfigError(
            "strategy.name is 'heads', and no attention heads are found among the "
            f"{len(inputs.layout.names)} tensors that are trained{why}; expected a model with "
            "attention whose query, key and value projections are trained (with LoRA: "
            "lora.targets), such as Llama, BERT or GPT-2, or strategy.name = 'partial'"
        )
    return known


HEADS = Method(
    heads,
    "Szablewski, Sani, Lane 2025 (one-page abstract)",
    "Each client trains and sends some attention heads, disjoint within a round.",
    keys=("head-share", "tier-heads", "beside-heads", "mean", *DOWN_KEYS),
    mean="senders",
    tiered=lambda settings: bool(settings.tier_heads),
)
