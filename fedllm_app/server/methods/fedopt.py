"""FedAdam, FedYogi and FedAdagrad (Reddi et al. 2021), and FedProx: dense, with a step of its own.

Their server steps are in `server/adaptive.py`, and FedProx' device rule in `client/rules/`.
"""

from fedllm_app.server.methods.base import DOWN_KEYS, Method
from fedllm_app.server.methods.floss import dense

REDDI = "Reddi et al. 2021, arXiv 2003.00295 (Algorithm 2)"

FEDADAM = Method(
    dense,
    REDDI,
    "Everything sent each way, the server takes a step of Adam without bias correction.",
    keys=DOWN_KEYS,
    server={"optimizer": "fedadam"},
)
FEDYOGI = Method(
    dense,
    REDDI,
    "Everything sent each way, the server takes a step of Yogi.",
    keys=DOWN_KEYS,
    server={"optimizer": "fedyogi"},
)
FEDADAGRAD = Method(
    dense,
    REDDI,
    "Everything sent each way, the server takes a step of Adagrad that begins at tau squared.",
    keys=DOWN_KEYS,
    server={"optimizer": "fedadagrad"},
)
FEDPROX = Method(
    dense,
    "Li et al. 2020, arXiv 1812.06127",
    "FedAvg whose devices are pulled back to what they received.",
    keys=DOWN_KEYS,
    server={"optimizer": "sgd"},
    weights="examples",
    rule="fedprox",
)
