"""A text of next-token prediction as a document: it begins and ends as its tokenizer marks it.

The end token is predicted like any other, so that a model learns to stop.
"""

import logging
from collections.abc import Sequence
from typing import Any

log = logging.getLogger("fedllm")


def documents(
    texts: Sequence[str], tokens: Sequence[Sequence[int]], end: int | None
) -> list[list[int]]:
    """Return each text's tokens with an end token after them; [] for a text without a character.

    Parameters
    ----------
    texts : white space alone is no text, and so has no end.
    tokens : of each text, with what the tokenizer puts around it, such as a token to begin with.
    end : the token from `end_token`; one that is there already is not added again.
    """
    made = []
    for text, ids in zip(texts, tokens, strict=True):
        document = list(ids) if text.strip() else []
        if document and end is not None and document[-1] != end:
            document.append(end)
        made.append(document)
    return made


def end_token(tokenizer: Any) -> int | None:
    """Return the token that a document ends with, None if the tokenizer knows none.

    It is the end token or, for tokenizers that put one around every text, as BERT's, that one.
    """
    if tokenizer.eos_token_id is not None:
        return int(tokenizer.eos_token_id)
    around = tokenizer("")["input_ids"]
    if around and around[-1] == tokenizer.sep_token_id:
        return int(around[-1])
    log.warning(
        "the tokenizer has no end token: a model that is tuned on its texts does not learn to "
        "stop; expected model.tokenizer to name one that has (eos_token in tokenizer_config.json)"
    )
    return None


def cut(ids: Sequence[int], length: int) -> list[list[int]]:
    """Return blocks of `length`; the first token of each is read and not predicted.

    A rest of one token comes with the one before it, so that a document's end is predicted. A
    document of one token has nothing to predict, and no block.
    """
    blocks = [list(ids[i : i + length]) for i in range(0, len(ids), length)]
    if len(blocks) > 1 and len(blocks[-1]) == 1:
        blocks[-1] = list(ids[-2:])
    return [block for block in blocks if len(block) >= 2]
