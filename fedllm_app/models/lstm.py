"""A causal LSTM language model, projected, with tied embeddings.

Long short-term memory with a recurrent projection (Sak et al. 2014, arXiv 1402.1128) by torch's
nn.LSTM; in the place of a Transformer as in cross-device learning of keyboards (Hard et al. 2018,
arXiv 1811.03604; Ro et al. 2022, arXiv 2204.09715). The forget gate begins open: its bias is 1
(Jozefowicz et al. 2015). Documents of a packed row are read apart, each from an empty state.

Shapes: B rows, T tokens, d width of embedding and projection, H cells.
"""

import warnings
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from transformers import Cache, DynamicCache, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaPreTrainedModel

from fedllm_app.models.documents import Documents, begins, positions_by_mask

# torch says so once in every process; there is nothing to do about it.
warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")


@strict
class LstmConfig(PreTrainedConfig):
    """Shape of an LSTM language model.

    Attributes
    ----------
    vocab_size, hidden_size, num_hidden_layers : as in every decoder; hidden_size is d.
    cell_size : H.
    initializer_range : standard deviation of the embeddings at the start.
    max_position_embeddings : told to users alone; an LSTM has no positions.
    """

    model_type = "fedllm_lstm"
    keys_to_ignore_at_inference = ("past_key_values",)

    vocab_size: int = 4096
    hidden_size: int = 256
    num_hidden_layers: int = 1
    cell_size: int = 1536
    initializer_range: float = 0.02
    max_position_embeddings: int = 2048
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = True

    @property
    def layer_types(self) -> list[str]:
        """What a cache keeps of each layer: a state, in one that grows with attention as well."""
        return ["hybrid"] * self.num_hidden_layers


class LstmLayer(GradientCheckpointingLayer):
    """One layer of projected LSTM; its state is h (d values) and c (H values), end to end."""

    def __init__(self, config: LstmConfig) -> None:
        super().__init__()
        d = config.hidden_size
        self.lstm = nn.LSTM(d, config.cell_size, proj_size=d, batch_first=True)

    def forward(
        self, x: Tensor, documents: Documents | None, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return what the layer makes of x, shape (B, T, d), and its state after it, (B, d + H).

        Parameters
        ----------
        documents : of the rows, None where each row is one.
        state : that the first document of every row begins with; None is empty.
        """
        d = x.shape[-1]
        if documents is None:
            begun = None if state is None else _split(state, d)
            y, (h, c) = self.lstm(x, begun)
            return y, torch.cat([h[0], c[0]], dim=-1)
        begun = None
        if state is not None:
            whole = state.new_zeros(documents.count, state.shape[-1])
            begun = _split(whole.index_copy(0, documents.first, state), d)
        read = PackedSequence(x.flatten(0, 1)[documents.order], documents.sizes)
        out, (h, c) = self.lstm(read, begun)
        y = torch.empty_like(out.data).index_copy(0, documents.order, out.data)
        return y.view_as(x), torch.cat([h[0], c[0]], dim=-1)[documents.last]


class LstmPreTrainedModel(LlamaPreTrainedModel):
    """How the weights begin, and what transformers is told of the model."""

    config: LstmConfig
    _no_split_modules = ("LstmLayer",)
    _can_record_outputs = None

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.LSTM):
            bias, H = module.get_parameter("bias_ih_l0"), module.hidden_size
            if not getattr(bias, "_is_hf_initialized", False):
                init.ones_(bias[H : 2 * H])  # gates are input, forget, cell, output


class LstmModel(LstmPreTrainedModel):
    """Embeddings and layers."""

    def __init__(self, config: LstmConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList([LstmLayer(config) for _ in range(config.num_hidden_layers)])
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
        """Return the last hidden state, shape (B, T, d), and the states for the next tokens.

        Parameters
        ----------
        attention_mask : read where there are no position_ids, for rows padded on the left.
        position_ids : 0 where a document begins.
        """
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None and attention_mask is not None and past_key_values is None:
            position_ids = positions_by_mask(attention_mask)
        starts = begins(position_ids, x.shape[0])
        documents = None if starts is None else Documents.of(starts)
        for i, layer in enumerate(self.layers):
            kept = None if past_key_values is None else past_key_values.layers[i]
            state = kept.recurrent_states[0] if kept is not None else None
            x, state = layer(x, documents, state)
            if past_key_values is not None:
                past_key_values.update_recurrent_state(state, i)
        return BaseModelOutputWithPast(last_hidden_state=x, past_key_values=past_key_values)


class LstmForCausalLM(LstmPreTrainedModel, LlamaForCausalLM):
    """The same with a head that predicts the next token; it is the embeddings transposed."""

    config: LstmConfig

    def __init__(self, config: LstmConfig) -> None:
        PreTrainedModel.__init__(self, config)
        self.model = LstmModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


def _split(state: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """Return h and c of a state as nn.LSTM takes them."""
    h, c = state[:, :d], state[:, d:]
    return h[None].contiguous(), c[None].contiguous()
