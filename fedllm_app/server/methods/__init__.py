"""The methods by name. To add one, write its function and a line here, or name your own module."""

import importlib

from fedllm_app.core.errors import ConfigError
from fedllm_app.server.methods.base import Method
from fedllm_app.server.methods.floss import DENSE, FEDAVG, FLOSS, FLOSS_TIERS
from fedllm_app.server.methods.pruned import ADAPTER_LTH, FED_SELECT, SPARSE_ADAPTER
from fedllm_app.server.methods.slices import FFA_LORA, HETLORA

STRATEGIES: dict[str, Method] = {
    "floss": FLOSS,
    "floss-tiers": FLOSS_TIERS,
    "dense": DENSE,
    "fedavg": FEDAVG,
    "sparse-adapter": SPARSE_ADAPTER,
    "adapter-lth": ADAPTER_LTH,
    "fed-select": FED_SELECT,
    "ffa-lora": FFA_LORA,
    "hetlora": HETLORA,
}


def method_of(name: str) -> Method:
    """Return a method by its name, or one of your own by "MODULE:NAME".

    Raises
    ------
    ConfigError
        If there is none.
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    module, colon, attribute = name.partition(":")
    try:
        own = getattr(importlib.import_module(module), attribute) if colon else None
    except Exception as error:  # whatever a module of somebody's raises
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"strategy.name is {name!r}, which cannot be imported: {why}") from None
    if not isinstance(own, Method):
        known = ", ".join(sorted(STRATEGIES))
        raise ConfigError(
            f"strategy.name is {name!r}; expected one of {known}, or MODULE:NAME of a Method of "
            "your own"
        )
    return own
