"""Let a model answer: greedy, in batches, always the same words for the same weights.

Shapes: B prompts, T tokens of the longest one.
"""

from collections.abc import Sequence
from typing import Any

import torch

from fedllm_app.data.chat import stop_ids

AT_ONCE = 8


def answers(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], most: int, at_once: int = AT_ONCE
) -> list[str]:
    """Return what a model answers to each prompt, without the marks around it.

    Parameters
    ----------
    model : of transformers, in eval mode, with adapters in it or not.
    tokenizer : its own; its template tells how an answer ends.
    prompts : tokens of each, up to where the answer begins.
    most : tokens of an answer at most.
    at_once : prompts in a batch.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found = [""] * len(prompts)
    for start in range(0, len(order), at_once):
        chosen = order[start : start + at_once]
        said = _batch(model, tokenizer, [prompts[i] for i in chosen], most)
        for i, text in zip(chosen, said, strict=True):
            found[i] = text
    return found


def generation(model: Any, tokenizer: Any, most: int) -> Any:
    """Return the settings of transformers for greedy answers that end as the template ends them."""
    from transformers import GenerationConfig

    own = getattr(model.generation_config, "eos_token_id", None)
    ends = [own] if isinstance(own, int) else list(own or ())
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=most,
        eos_token_id=list(dict.fromkeys([*stop_ids(tokenizer), *ends])) or None,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,  # which training keeps off
    )


def _batch(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], most: int) -> list[str]:
    T = max(len(ids) for ids in prompts)
    device = next(model.parameters()).device
    ids_BT = torch.full((len(prompts), T), tokenizer.pad_token_id or 0, device=device)
    mask_BT = torch.zeros_like(ids_BT)
    for row, ids in enumerate(prompts):  # the end of a prompt has to stand where the answer begins
        ids_BT[row, T - len(ids) :] = torch.tensor(ids, device=device)
        mask_BT[row, T - len(ids) :] = 1
    with torch.inference_mode():
        made = model.generate(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            generation_config=generation(model, tokenizer, most),
        )
    texts = tokenizer.batch_decode(made[:, T:], skip_special_tokens=True)
    return [str(text).strip() for text in texts]
