"""DiLoCo: an outer Nesterov step on the mean of many local steps (arXiv 2311.08105).

Every client takes H steps of AdamW. The mean change is the gradient of the server's SGD with
momentum. Tune the outer rate before comparing: the best one rises with H and with the clients.
"""

from fedllm_app.server.methods.base import DOWN_KEYS, Method
from fedllm_app.server.methods.floss import dense
from fedllm_app.server.settings import DELAYED

DILOCO = Method(
    dense,
    "Douillard et al. 2023, arXiv 2311.08105 (DiLoCo)",
    "Everything sent each way, the server takes a Nesterov step on the mean; for pre-training.",
    keys=DOWN_KEYS,
    server={"optimizer": "sgd", "lr": 0.7, "momentum": 0.9, "nesterov": True},
    optimizers=(DELAYED,),
)
