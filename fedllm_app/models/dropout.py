"""Turn a model's dropout off, wherever it keeps it."""

from typing import Any

from torch import nn
from transformers import PreTrainedConfig

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


def silence_dropout(model: nn.Module) -> None:
    """Set every dropout of a module and of its configs to zero, attention dropout included.

    Modules keep the probability in nn.Dropout, as a plain attribute (`attention_dropout`, handed to
    sdpa), or read it from the config in the forward pass.
    """
    for module in model.modules():
        if isinstance(module, _DROPOUTS):
            module.p = 0.0
        _zero_drop_values(vars(module))
    if isinstance(getattr(model, "config", None), PreTrainedConfig):
        _silence_config(model.config)


def _silence_config(config: PreTrainedConfig) -> None:
    _zero_drop_values(vars(config))
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            _silence_config(value)


def _zero_drop_values(values: dict[str, Any]) -> None:
    for name, value in values.items():
        if "drop" in name and isinstance(value, float):
            values[name] = 0.0
