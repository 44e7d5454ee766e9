"""Whether a model keeps documents of a packed row apart, seen by trying it.

transformers cuts attention where position ids begin again at 0. Not every architecture does: one
that carries a state along the row, as Mamba, reads on.
"""

import torch

from fedllm_app.core.errors import ConfigError
from fedllm_app.models.trainable import TrainableModel

NEARLY = 1e-5  # of the largest logit; what is cut off leaves no trace but rounding


def check_apart(model: TrainableModel, whole_rows: bool = False) -> None:
    """Raise ConfigError if a document's logits change with the document before it.

    Parameters
    ----------
    whole_rows : packed rows hold whole examples, as conversations, which cannot be joined.
    """
    device = model.flat.device
    ids = torch.tensor([[3, 4, 5, 6], [5, 3, 5, 6]], device=device)
    positions = torch.tensor([[0, 1, 0, 1]] * 2, device=device)
    training = model.model.training
    model.model.eval()
    try:
        with torch.inference_mode():
            one, other = model.logits({"input_ids": ids, "position_ids": positions})[:, 2:]
        cut = float((one - other).abs().max()) <= NEARLY * float(one.abs().max())
    except TypeError:  # it takes no position ids
        cut = False
    finally:
        model.model.train(training)
    if not cut:
        asked, instead = "data.documents is 'apart'", "data.documents = 'joined'"
        if whole_rows:
            asked, instead = "task.packing is true", "task.packing = false"
        raise ConfigError(
            f"{asked}, but {type(model.backbone).__name__} reads from one document of a packed row "
            f"into the next; set {instead}, or choose another model"
        )
