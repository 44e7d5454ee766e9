"""A frozen base in 8 or 4 bits by bitsandbytes (QLoRA, Dettmers et al. 2023), on a CUDA device.

The base is loaded where it computes, PEFT puts the adapters there, and nothing is moved later.
Adapters stay float32. bitsandbytes is an extra: `pip install 'fedllm[quantized]'`.
"""

from importlib.util import find_spec
from typing import Any

import torch

from fedllm_app.core.errors import ConfigError
from fedllm_app.models.settings import ModelSettings


def quantized(settings: ModelSettings) -> dict[str, Any]:
    """Return the arguments of from_pretrained that load the base in few bits.

    Raises
    ------
    ConfigError
        If this process sees no CUDA device, or bitsandbytes is not installed.
    """
    if settings.device == "cpu" or not torch.cuda.is_available():
        raise ConfigError(
            f"model.quantize is {settings.quantize!r}, and this process computes on a CPU; set "
            "model.quantize to '' there, with model.dtype = 'bfloat16' for half the memory, or "
            "give the process a CUDA device (client-resources-num-gpus above 0 in a simulation)"
        )
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"model.quantize is {settings.quantize!r}, which needs bitsandbytes; expected "
            "pip install 'fedllm[quantized]', or model.quantize = ''"
        )
    from transformers import BitsAndBytesConfig

    if settings.quantize == "8bit":
        asked = BitsAndBytesConfig(load_in_8bit=True)
    else:
        asked = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    return {"quantization_config": asked, "device_map": {"": torch.cuda.current_device()}}
