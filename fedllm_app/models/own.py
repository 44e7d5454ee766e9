"""Architectures of ours that transformers does not have; importing this module registers them.

A saved folder of one then loads by `AutoModelForCausalLM.from_pretrained`, with no code in the
folder and nothing to trust.
"""

from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from fedllm_app.models.conformer import ConformerConfig, ConformerForCausalLM, ConformerModel
from fedllm_app.models.lstm import LstmConfig, LstmForCausalLM, LstmModel

OWN: dict[str, tuple[Any, Any, Any]] = {
    LstmConfig.model_type: (LstmConfig, LstmModel, LstmForCausalLM),
    ConformerConfig.model_type: (ConformerConfig, ConformerModel, ConformerForCausalLM),
}
for _name, (_config, _model, _causal) in OWN.items():
    AutoConfig.register(_name, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
    AutoModelForCausalLM.register(_config, _causal, exist_ok=True)
