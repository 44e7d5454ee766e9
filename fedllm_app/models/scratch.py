"""Models from scratch: decoders by name, drawn from the run's seed, with no download.

A Llama-style decoder (RMSNorm, rotary positions, SwiGLU, no biases, tied embeddings) by
transformers' LlamaForCausalLM; the shapes from 75m on are those of Photon (Sani et al. 2024,
arXiv 2411.02908), which trained MPT models of them. For devices, three families, at about 1M,
below 5M and at about 20M parameters with a vocabulary of 4,096, as Ro et al. 2022 (arXiv
2204.09715) compare them: a projected LSTM (lstm.py), this decoder, and a causal Conformer
(conformer.py).

Shapes: L layers, d width, V vocabulary, H cells of an LSTM, k kernel of a convolution.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedllm_app.data.cache import build_once, digest
from fedllm_app.models.settings import SCRATCH

STEP = 64  # the MLP is a multiple of this wide


@dataclass(frozen=True)
class Shape:
    """The shape of a Llama-style decoder.

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

    def config(self, common: dict[str, Any]) -> Any:
        """Return the config of transformers; `common` is what every family's config has."""
        from transformers import LlamaConfig

        return LlamaConfig(
            num_attention_heads=self.heads,
            intermediate_size=self.mlp,
            architectures=["LlamaForCausalLM"],
            **common,
        )


@dataclass(frozen=True)
class LstmShape:
    """The shape of a projected LSTM.

    Attributes
    ----------
    layers, width, cells : width is that of the embeddings and of the projection.
    nominal : the number of parameters that its name stands for.
    """

    layers: int
    width: int
    cells: int
    nominal: float

    def parameters(self, V: int) -> int:
        """Return the number of parameters."""
        d, H = self.width, self.cells
        return self.layers * (9 * d * H + 8 * H) + V * d

    def config(self, common: dict[str, Any]) -> Any:
        """Return the config."""
        from fedllm_app.models.lstm import LstmConfig

        # No norm stands between the embeddings and what reads them: they begin larger.
        return LstmConfig(
            cell_size=self.cells,
            initializer_range=self.width**-0.5,
            architectures=["LstmForCausalLM"],
            **common,
        )


@dataclass(frozen=True)
class ConformerShape:
    """The shape of a causal Conformer.

    Attributes
    ----------
    layers, width, heads, kernel : of the blocks; a feed-forward is 4 d wide.
    nominal : the number of parameters that its name stands for.
    """

    layers: int
    width: int
    heads: int
    kernel: int
    nominal: float

    def parameters(self, V: int) -> int:
        """Return the number of parameters."""
        d = self.width
        return self.layers * (23 * d * d + (26 + self.kernel) * d) + V * d

    def config(self, common: dict[str, Any]) -> Any:
        """Return the config."""
        from fedllm_app.models.conformer import ConformerConfig

        return ConformerConfig(
            num_attention_heads=self.heads,
            intermediate_size=4 * self.width,
            conv_kernel=self.kernel,
            architectures=["ConformerForCausalLM"],
            **common,
        )


AnyShape = Shape | LstmShape | ConformerShape
# "micro", "tiny" and "small" are ours, for a vocabulary of 4,096.
SHAPES = {
    "micro": Shape(2, 128, 4, 0.9e6),
    "tiny": Shape(3, 192, 6, 2e6),
    "small": Shape(5, 320, 5, 8e6),
    "75m": Shape(3, 896, 16, 75e6),
    "125m": Shape(12, 768, 12, 125e6),
    "1.3b": Shape(24, 2048, 16, 1.3e9),
    "3b": Shape(32, 2560, 20, 3e9),
    "7b": Shape(32, 4096, 32, 7e9),
}
# For devices, by a vocabulary of 4,096. The large ones are of the sizes of Ro et al. 2022.
DEVICE_SHAPES: dict[str, AnyShape] = {
    "lstm-tiny": LstmShape(1, 128, 576, 1.19e6),
    "lstm-small": LstmShape(1, 256, 1536, 4.6e6),
    "lstm-large": LstmShape(2, 512, 1920, 19.8e6),
    "transformer-tiny": Shape(3, 128, 4, 1.09e6),
    "transformer-small": Shape(4, 256, 4, 4.3e6),
    "transformer-large": Shape(6, 512, 8, 21e6),
    "conformer-tiny": ConformerShape(2, 112, 4, 15, 1.04e6),
    "conformer-small": ConformerShape(2, 256, 4, 15, 4.1e6),
    "conformer-large": ConformerShape(3, 512, 8, 15, 20.2e6),
}
ALL_SHAPES: dict[str, AnyShape] = {**SHAPES, **DEVICE_SHAPES}
PUBLISHED_VOCABULARY = 50_368  # of Photon's models


def shape_of(source: str) -> AnyShape | None:
    """Return the shape that a model.source names, None where it names no model from scratch."""
    return ALL_SHAPES.get(source.removeprefix(SCRATCH)) if source.startswith(SCRATCH) else None


def scratch_config(shape: AnyShape, vocabulary: int, max_tokens: int, ends: dict[str, Any]) -> Any:
    """Return the config of a decoder.

    Parameters
    ----------
    vocabulary : number of tokens.
    max_tokens : as in task.max-tokens; the positions that the config tells of.
    ends : token ids by the config's names, such as "eos_token_id".
    """
    return shape.config(
        {
            "vocab_size": vocabulary,
            "hidden_size": shape.width,
            "num_hidden_layers": shape.layers,
            "max_position_embeddings": max_tokens,
            "tie_word_embeddings": True,
            **ends,
        }
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
    shape = ALL_SHAPES[source.removeprefix(SCRATCH)]
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
        scratch_config(shape, tokens, max_tokens, ends).save_pretrained(folder)

    return build_once(cache / "scratch" / f"{source.removeprefix(SCRATCH)}-{key}", build)
