"""Models from scratch: decoder Transformers by name, drawn from the run's seed, with no download.

A Llama-style decoder (RMSNorm, rotary positions, SwiGLU, no biases, tied embeddings) by
transformers' LlamaForCausalLM. The shapes from 75m on are those of Photon (Sani et al. 2024,
arXiv 2411.02908), which trained MPT models of them.

Shapes: L layers, d width, V vocabulary.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedllm_app.data.cache import build_once, digest
from fedllm_app.models.settings import SCRATCH

STEP = 64  # the MLP is a multiple of this wide


@dataclass(frozen=True)
class Shape:
    """The shape of a decoder.

    Attributes
    ----------
    layers, width, heads : of the decoder.
    nominal : the number of parameters that its name stands for.
    """

    layers: int
    width: int
    heads: int
    nominal: float

    @property
    def mlp(self) -> int:
        """Width of the MLP: the multiple of 64 that is nearest to 8 d / 3.

        SwiGLU has three matrices where MPT's MLP has two of width 4 d; so both hold 8 d^2 values.
        """
        return STEP * round(8 * self.width / 3 / STEP)

    def parameters(self, V: int) -> int:
        """Return the number of parameters; the embeddings are also the output, and count once."""
        d = self.width
        return self.layers * (4 * d * d + 3 * d * self.mlp + 2 * d) + V * d + d


# "tiny" and "small" are ours, for a vocabulary of 4,096.
SHAPES = {
    "tiny": Shape(3, 192, 6, 2e6),
    "small": Shape(5, 320, 5, 8e6),
    "75m": Shape(3, 896, 16, 75e6),
    "125m": Shape(12, 768, 12, 125e6),
    "1.3b": Shape(24, 2048, 16, 1.3e9),
    "3b": Shape(32, 2560, 20, 3e9),
    "7b": Shape(32, 4096, 32, 7e9),
}
PUBLISHED_VOCABULARY = 50_368  # of Photon's models


def shape_of(source: str) -> Shape | None:
    """Return the shape that a model.source names, None where it names no model from scratch."""
    return SHAPES.get(source.removeprefix(SCRATCH)) if source.startswith(SCRATCH) else None


def scratch_config(shape: Shape, vocabulary: int, max_tokens: int, ends: dict[str, Any]) -> Any:
    """Return the config of a decoder.

    Parameters
    ----------
    vocabulary : number of tokens.
    max_tokens : as in task.max-tokens; the positions that the config tells of.
    ends : token ids by the config's names, such as "eos_token_id".
    """
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.mlp,
        max_position_embeddings=max_tokens,
        tie_word_embeddings=True,
        **ends,
    )


def scratch_folder(source: str, tokenizer: Any, max_tokens: int, cache: Path) -> Path:
    """Return a folder with the config of a model from scratch, for `from_pretrained`.

    Parameters
    ----------
    source : as in model.source, such as "scratch:tiny".
    tokenizer : of transformers; its tokens are the model's.
    max_tokens : as in task.max-tokens.
    cache : folder for all caches.
    """
    shape = SHAPES[source.removeprefix(SCRATCH)]
    end = tokenizer.eos_token_id
    first = tokenizer.bos_token_id
    ends = {
        "bos_token_id": end if first is None else first,
        "eos_token_id": end,
        "pad_token_id": tokenizer.pad_token_id,
    }
    # Some tokenizers leave numbers out: the largest rules.
    tokens = max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1)
    key = digest(source, asdict(shape), tokens, max_tokens, ends)

    def build(folder: Path) -> None:
        config = scratch_config(shape, tokens, max_tokens, ends)
        config.architectures = ["LlamaForCausalLM"]
        config.save_pretrained(folder)

    return build_once(cache / "scratch" / f"{source.removeprefix(SCRATCH)}-{key}", build)
