"""Attention of a bfloat16 base, or under autocast, computed in float32 on a CPU.

torch's fused attention takes five times as long backwards in bfloat16 as in float32 on processors
that multiply bfloat16 but have no tiles for it (AVX-512 without AMX), which eats what the matrix
products gain. With tiles it takes three times as long for 128 tokens of 32 values a head, and less
from 256 tokens on. Other devices keep torch's own.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "sdpa-float32-on-cpu"
LONG = 256  # tokens from which on tiles make up for it


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Return what transformers' sdpa returns, in the query's type."""
    if query.device.type != "cpu" or _worth_tiles(query):
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return out, None
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    with torch.autocast("cpu", enabled=False):
        out, _ = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), attention_mask, **options
        )
    return out.to(query.dtype), None


def _worth_tiles(query: Tensor) -> bool:
    """Return whether autocast computes this attention faster in bfloat16."""
    if not torch.is_autocast_enabled("cpu") or query.shape[-2] < LONG:
        return False
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def attend_in_float32(model: PreTrainedModel) -> None:
    """Let a model that computes attention by torch's sdpa do so in float32 on a CPU.

    Where nothing is bfloat16, it computes as before.
    """
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)
