"""How many tokens a model has positions for, where it has a table with a row for each.

Rotary and relative positions have no such end, whatever a config calls their maximum.
"""

from torch import nn
from transformers import PreTrainedModel

from fedllm_app.core.errors import ConfigError
from fedllm_app.models.targets import text_never_reaches

# What the architectures of transformers call their tables of positions.
TABLES = ("position_embeddings", "position_embedding", "embed_positions", "wpe", "positions_embed")


def most_tokens(model: PreTrainedModel) -> int | None:
    """Return the longest input in tokens, None where no table of positions bounds it.

    Not every row is a position: RoBERTa counts from the row after its padding's, and OPT and BART
    keep two rows free, so all three take two tokens less than their table has rows.
    """
    found = []
    for name, module in model.named_modules():
        if _is_table(name) and isinstance(module, nn.Embedding):
            after_padding = 0 if module.padding_idx is None else module.padding_idx + 1
            found.append(module.num_embeddings - int(getattr(module, "offset", after_padding)))
    # GPT-J rotates by a table of fixed length.
    found += [table.shape[0] for name, table in model.named_buffers() if _is_table(name)]
    return min(found, default=None)


def check_positions(model: PreTrainedModel, max_tokens: int, answer_tokens: int = 0) -> None:
    """Refuse inputs that are longer than the positions that a model has.

    Parameters
    ----------
    max_tokens : as in task.max-tokens.
    answer_tokens : that may be generated behind an input of that length.

    Raises
    ------
    ConfigError
        If task.max-tokens is above them, or leaves no room for an answer.
    """
    most = most_tokens(model)
    if most is not None and max_tokens > most:
        raise ConfigError(
            f"task.max-tokens is {max_tokens}; expected at most {most}, the positions of "
            f"model.source ({type(model).__name__}), beyond which it has learnt nothing"
        )
    if most is not None and answer_tokens and max_tokens + answer_tokens > most:
        room = most - max_tokens
        fewer = f"at most {room}, or " if room else ""
        raise ConfigError(
            f"task.generate-tokens is {answer_tokens} behind rows of task.max-tokens = "
            f"{max_tokens}, and model.source ({type(model).__name__}) has {most} positions for "
            f"both; expected {fewer}task.max-tokens of at most {max(most - answer_tokens, 2)}, or "
            "set task.generate to 0"
        )


def _is_table(name: str) -> bool:
    return name.rpartition(".")[2] in TABLES and not text_never_reaches(name)
