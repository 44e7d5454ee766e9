"""Photon: federated averaging of whole language models (arXiv 2405.10853, 2411.02908).

Every client takes H steps of AdamW on its own stream, and the server takes the mean: SGD of rate
1. Weights are by the tokens that a client trained on; `round.weights` may count all alike.
"""

from fedllm_app.server.methods.base import DOWN_KEYS, Method
from fedllm_app.server.methods.floss import dense

PHOTON = Method(
    dense,
    "Sani et al. 2024, arXiv 2405.10853 and arXiv 2411.02908 (Photon)",
    "Everything sent each way, the server takes the mean by tokens; for pre-training.",
    keys=DOWN_KEYS,
    server={"optimizer": "sgd", "lr": 1.0},
    weights="tokens",
)
