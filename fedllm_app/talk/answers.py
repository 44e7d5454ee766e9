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


def generated(
    model: Any, tokenizer: Any, ids_BT: torch.Tensor, mask_BT: torch.Tensor, most: int,
    streamer: Any = None,
) -> list[str]:  # fmt: skip
    """Return what a model answers to prompts of T tokens, pads in front, without marks.

    Parameters
    ----------
    streamer : of transformers, gets the tokens of a single prompt as they are generated.
    """
    with torch.inference_mode():
        made = model.generate(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            generation_config=_generation(model, tokenizer, most),
            streamer=streamer,
        )
    texts = tokenizer.batch_decode(made[:, ids_BT.shape[1] :], skip_special_tokens=True)
    return [str(text).strip() for text in texts]


def device_of(model: Any) -> torch.device:
    """Return where a model's first weight lies, which is where its inputs go."""
    return torch.device(next(model.parameters()).device)


def _generation(model: Any, tokenizer: Any, most: int) -> Any:
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
    device = device_of(model)
    ids_BT = torch.full((len(prompts), T), tokenizer.pad_token_id or 0, device=device)
    mask_BT = torch.zeros_like(ids_BT)
    for row, ids in enumerate(prompts):  # the end of a prompt has to stand where the answer begins
        ids_BT[row, T - len(ids) :] = torch.tensor(ids, device=device)
        mask_BT[row, T - len(ids) :] = 1
    return generated(model, tokenizer, ids_BT, mask_BT, most)
