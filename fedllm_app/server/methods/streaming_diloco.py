"""DiLoCo whose layers take turns (Streaming DiLoCo, arXiv 2501.18512).

The model is cut into F fragments of layers. In round t a device receives fragment t mod F, trains
all, and returns the change of fragment (t + 1) mod F since it came, F rounds before; the server
steps that one. So every round moves a part of 1 / F each way, and each fragment has been trained
for F rounds when it is sent: with H / F steps a round the total is that of DiLoCo, the peak is not.

    own <- mixing own + (1 - mixing) P     in the fragment that comes down; the rest stays its own
    delta = P as it came - own             of the fragment that goes up

Who was not there in the round before, or whose reply was lost, receives the whole model.
"""

from fedllm_app.core.errors import ConfigError
from fedllm_app.core.plan import ClientPlan, RoundPlan
from fedllm_app.core.region import size_of
from fedllm_app.core.rules import FRAGMENT
from fedllm_app.core.support import All, Derived, Draw, expand
from fedllm_app.server.methods.base import DOWN_KEYS, Inputs, Method, MethodState
from fedllm_app.server.methods.diloco import DILOCO


def streaming_diloco(inputs: Inputs, state: MethodState) -> tuple[RoundPlan, MethodState]:
    """Send one fragment down and the next one up."""
    settings, t = inputs.settings, inputs.job
    down, up = (
        Derived(FRAGMENT, {"of": settings.fragments, "number": n % settings.fragments}, per=())
        for n in (t, t + 1)
    )
    for number in range(settings.fragments):
        support = Derived(FRAGMENT, {"of": settings.fragments, "number": number}, per=())
        if not size_of(expand(support, inputs.layout, Draw(inputs.seed)), inputs.layout.size):
            raise ConfigError(
                f"strategy.fragments is {settings.fragments}; part {number} of them holds nothing "
                "of what is trained: expected at most as many as the model has layers"
            )
    kept, down_as = frozenset({"values"}), settings.down
    whole = ClientPlan(All(), "zero", All(), up, keeps=kept, down_as=down_as)
    part = ClientPlan(down, "zero", All(), up, keeps=kept, down_as=down_as, mixing=settings.mixing)
    there = {client for client in inputs.cohort if inputs.accepted.get(client, -1) == t - 1}
    group_of = {client: "fragment" if client in there else "all" for client in inputs.cohort}
    return RoundPlan({"all": whole, "fragment": part}, group_of, step=up), state


STREAMING_DILOCO = Method(
    streaming_diloco,
    "Douillard et al. 2025, arXiv 2501.18512 (Streaming DiLoCo)",
    "Fragments of layers take turns, the rest stays the device's own; for pre-training.",
    keys=("fragments", "mixing", *DOWN_KEYS),
    server=DILOCO.server,
)
