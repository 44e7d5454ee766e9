"""A causal Conformer language model: self-attention and convolution between two half feed-forwards.

Source: Gulati et al. 2020, arXiv 2005.08100 (the block), as a language model on devices in Ro et
al. 2022, arXiv 2204.09715. A block is

    x = x + 1/2 FFN(x);  x = x + MHSA(x);  x = x + Conv(x);  y = LayerNorm(x + 1/2 FFN(x))

Changes for a causal model that is trained by many: attention sees what came before alone, with
rotary positions (Su et al. 2021) in the place of relative ones; the depthwise convolution reads the
token and the k - 1 before it; and LayerNorm stands where the paper has batch normalization, whose
running statistics would be those of no client. Documents of a packed row are read apart.

Shapes: B rows, T tokens, d width, k kernel.
"""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn.functional import glu, silu
from transformers import Cache, DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaPreTrainedModel,
    LlamaRotaryEmbedding,
)

from fedllm_app.models.documents import apart, begins, gathered, shifted, spread


@strict
class ConformerConfig(LlamaConfig):
    """Shape of a causal Conformer; what it does not name is as in LlamaConfig.

    Attributes
    ----------
    conv_kernel : k, the tokens that the convolution reads.
    intermediate_size : width inside a feed-forward, of which a block has two.
    """

    model_type = "fedllm_conformer"

    conv_kernel: int = 15
    tie_word_embeddings: bool = True

    @property
    def layer_types(self) -> list[str]:
        """What a cache keeps of each layer: keys and values, and what the convolution reads."""
        return ["hybrid"] * self.num_hidden_layers


class FeedForward(nn.Module):
    """LayerNorm, a wide layer with swish, and back."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added to x, shape (B, T, d)."""
        added: Tensor = self.down(silu(self.up(self.norm(x))))
        return added


class CausalConvolution(nn.Module):
    """LayerNorm, a gated pointwise layer, a causal depthwise convolution, and a pointwise layer."""

    def __init__(self, config: ConformerConfig, layer: int) -> None:
        super().__init__()
        d, self.k, self.layer = config.hidden_size, config.conv_kernel, layer
        self.norm = nn.LayerNorm(d)
        self.gated = nn.Linear(d, 2 * d)
        self.depthwise = nn.Conv1d(d, d, self.k, groups=d)
        self.depthwise_norm = nn.LayerNorm(d)
        self.out = nn.Linear(d, d)

    def forward(
        self, x: Tensor, places: Tensor | None, mask: Tensor | None, past: Cache | None
    ) -> Tensor:
        """Return what is added to x, shape (B, T, d).

        Parameters
        ----------
        places : of tokens such that no kernel reads across documents; None where each row is one.
        mask : 0 at pads, shape (B, T, 1), or None.
        past : keeps the last k - 1 inputs of the depthwise convolution.
        """
        h = glu(self.gated(self.norm(x)), dim=-1)
        if mask is not None:
            h = h * mask
        if places is not None:
            h = gathered(self._convolved(spread(h, places)), places)
        else:
            h = self._convolved(h, past)
        added: Tensor = self.out(silu(self.depthwise_norm(h)))
        return added

    def _convolved(self, h: Tensor, past: Cache | None = None) -> Tensor:
        T, turned = h.shape[1], h.transpose(1, 2)
        if past is not None and self.k > 1:
            turned = past.update_conv_state(turned, self.layer, conv_kernel_size=self.k - 1)
        made: Tensor = self.depthwise(shifted(turned, self.k))[..., -T:].transpose(1, 2)
        return made


class ConformerBlock(GradientCheckpointingLayer):
    """One block; see the head of this file."""

    def __init__(self, config: ConformerConfig, layer: int) -> None:
        super().__init__()
        self.before = FeedForward(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.attention = LlamaAttention(config, layer)
        self.convolution = CausalConvolution(config, layer)
        self.after = FeedForward(config)
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(
        self,
        x: Tensor,
        attention_mask: Tensor | None,
        rotary: tuple[Tensor, Tensor],
        places: Tensor | None,
        mask: Tensor | None,
        past: Cache | None,
    ) -> Tensor:
        """Return the block's output, shape (B, T, d)."""
        x = x + 0.5 * self.before(x)
        attended, _ = self.attention(
            self.attention_norm(x),
            position_embeddings=rotary,
            attention_mask=attention_mask,
            past_key_values=past,
        )
        x = x + attended
        x = x + self.convolution(x, places, mask, past)
        made: Tensor = self.norm(x + 0.5 * self.after(x))
        return made


class ConformerPreTrainedModel(LlamaPreTrainedModel):
    """What transformers is told of the model."""

    config: ConformerConfig
    _no_split_modules = ("ConformerBlock",)
    _can_record_outputs = None


class ConformerModel(ConformerPreTrainedModel):
    """Embeddings and blocks."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        blocks = [ConformerBlock(config, i) for i in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(blocks)
        self.rotary_emb = LlamaRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **_: Any,
    ) -> BaseModelOutputWithPast:
        """Return the last hidden state, shape (B, T, d), and what is kept for the next tokens.

        Parameters
        ----------
        attention_mask : 0 at pads, shape (B, tokens so far).
        position_ids : 0 where a document begins.
        """
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = 0 if past_key_values is None else past_key_values.get_seq_length()
            position_ids = (torch.arange(x.shape[1], device=x.device) + seen)[None]
        allowed = create_causal_mask(
            config=self.config,
            inputs_embeds=x,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        places, mask = None, None
        if attention_mask is not None and attention_mask.ndim == 2:
            mask = attention_mask[:, -x.shape[1] :, None].to(x.dtype)
        elif past_key_values is None:
            starts = begins(position_ids, x.shape[0])
            places = None if starts is None else apart(starts, self.config.conv_kernel)
        rotary = self.rotary_emb(x, position_ids=position_ids)
        for layer in self.layers:
            x = layer(x, allowed, rotary, places, mask, past_key_values)
        return BaseModelOutputWithPast(last_hidden_state=x, past_key_values=past_key_values)


class ConformerForCausalLM(ConformerPreTrainedModel, LlamaForCausalLM):
    """The same with a head that predicts the next token; it is the embeddings transposed."""

    config: ConformerConfig

    def __init__(self, config: ConformerConfig) -> None:
        PreTrainedModel.__init__(self, config)
        self.model = ConformerModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
