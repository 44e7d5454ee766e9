"""Chat templates for models that have none: `model.chat-template` names one, or is one.

Jinja, as transformers reads it (in a sandbox): `messages` and `add_generation_prompt` are given.
"""

from typing import Any

from fedllm_app.core.errors import ConfigError

PLAIN = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '### Response:\\n' }}"
    "{{ message['content'] + (eos_token or '') + '\\n\\n' }}"
    "{% elif message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% else %}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# A template writes all marks itself: of a tokenizer that puts one in front, ours write it, too.
BEGIN = "{{ bos_token }}"
TEMPLATES = {"plain": PLAIN, "chatml": CHATML}


def template_problem(value: str) -> str:
    """Return what is wrong with model.chat-template, "" if nothing is."""
    if not value or value in TEMPLATES:
        return ""
    if "{" not in value:
        return (
            f"model.chat-template is {value!r}; expected {', '.join(TEMPLATES)}, the text of a "
            "Jinja template, or '' for the tokenizer's own"
        )
    return ""


def set_template(tokenizer: Any, value: str) -> None:
    """Give a tokenizer the template that model.chat-template names; "" leaves its own.

    A template of ours begins with the tokenizer's begin mark, where the tokenizer would put it.

    Raises
    ------
    ConfigError
        If it needs marks that the tokenizer has not.
    """
    if not value:
        return
    marks = ("<|im_start|>", "<|im_end|>") if value == "chatml" else ()
    known = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    if lost := [mark for mark in marks if mark not in known]:
        raise ConfigError(
            f"model.chat-template is {value!r}, and the tokenizer has no token {lost[0]!r}, which "
            "would be cut into pieces; expected 'plain'"
        )
    begun = BEGIN if value in TEMPLATES and _puts_first(tokenizer) else ""
    tokenizer.chat_template = begun + TEMPLATES.get(value, value)


def _puts_first(tokenizer: Any) -> bool:
    """Return whether a tokenizer begins a text with its begin mark, as Mistral's does."""
    mark = tokenizer.bos_token_id
    return mark is not None and list(tokenizer("a")["input_ids"])[:1] == [mark]
