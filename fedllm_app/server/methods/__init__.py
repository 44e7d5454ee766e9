"""The methods by name. To add one, write its function and a line here, or name your own module."""

from fedllm_app.core.extend import load
from fedllm_app.server.methods.base import Method
from fedllm_app.server.methods.diloco import DILOCO
from fedllm_app.server.methods.drift import MIMELITE, SCAFFOLD
from fedllm_app.server.methods.fedopt import FEDADAGRAD, FEDADAM, FEDPROX, FEDYOGI
from fedllm_app.server.methods.floss import DENSE, FEDAVG, FLOSS, FLOSS_TIERS
from fedllm_app.server.methods.heads import HEADS
from fedllm_app.server.methods.partial import PARTIAL, PARTIAL_FLOSS
from fedllm_app.server.methods.photon import PHOTON
from fedllm_app.server.methods.pruned import ADAPTER_LTH, FED_SELECT, SPARSE_ADAPTER
from fedllm_app.server.methods.slices import FFA_LORA, HETLORA
from fedllm_app.server.methods.sparse_diloco import SPARSE_DILOCO
from fedllm_app.server.methods.streaming_diloco import STREAMING_DILOCO

STRATEGIES: dict[str, Method] = {
    "floss": FLOSS,
    "floss-tiers": FLOSS_TIERS,
    "dense": DENSE,
    "fedavg": FEDAVG,
    "fedadam": FEDADAM,
    "fedyogi": FEDYOGI,
    "fedadagrad": FEDADAGRAD,
    "fedprox": FEDPROX,
    "scaffold": SCAFFOLD,
    "mimelite": MIMELITE,
    "sparse-adapter": SPARSE_ADAPTER,
    "adapter-lth": ADAPTER_LTH,
    "fed-select": FED_SELECT,
    "ffa-lora": FFA_LORA,
    "hetlora": HETLORA,
    "partial": PARTIAL,
    "partial-floss": PARTIAL_FLOSS,
    "heads": HEADS,
    "photon": PHOTON,
    "diloco": DILOCO,
    "sparse-diloco": SPARSE_DILOCO,
    "streaming-diloco": STREAMING_DILOCO,
}


def method_of(name: str) -> Method:
    """Return a method by its name, or one of your own by "MODULE:NAME".

    Raises
    ------
    ConfigError
        If there is none.
    """
    method: Method = load("strategy.name", name, Method, STRATEGIES)
    return method
