"""Chat templates of well-known models, and what they write of one conversation.

In what they write, « and » stand around what is learned; both are no part of the text.
"""

LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN = (
    "{%- if messages[0]['role'] == 'system' %}"
    "{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a "
    "helpful assistant.<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}{%- if message.role == 'user' or message.role == 'assistant' or "
    "(message.role == 'system' and not loop.first) %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if message['role'] == 'assistant' %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# The message of the system goes in front of what the user says last.
MISTRAL = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}"
    "{%- set turns = messages[1:] %}{%- else %}{%- set turns = messages %}{%- endif %}"
    "{{- bos_token }}{%- for message in turns %}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('roles must alternate') }}{%- endif %}"
    "{%- if message['role'] == 'user' %}{%- if loop.last and system is defined %}"
    "{{- '[INST] ' + system + '\n\n' + message['content'] + '[/INST]' }}"
    "{%- else %}{{- '[INST] ' + message['content'] + '[/INST]' }}{%- endif %}"
    "{%- else %}{{- ' ' + message['content'] | trim + eos_token }}{%- endif %}{%- endfor %}"
)
PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ '<|system|>\n' + message['content'] + '<|end|>\n' }}"
    "{% elif message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + '<|end|>\n' }}"
    "{% else %}{{ '<|assistant|>\n' + message['content'] + '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
    "Face<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Writes an empty thought before the last answer, and cuts one out of those before.
THINKS = (
    "{% for message in messages %}{% set said = message['content'] %}"
    "{% if '</think>' in said %}{% set said = said.split('</think>')[-1] %}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and loop.last %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ said + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

TURNS = [
    {"role": "user", "content": "What is a moon?"},
    {"role": "assistant", "content": " A rock. It goes round.\n\nSome are ice. "},
    {"role": "user", "content": "A rock.\nWho says so?"},
    {"role": "assistant", "content": "A rock."},
    {"role": "user", "content": "Is “ice” a rock, señor?"},
    {"role": "assistant", "content": "Sí: «no», she said."},
]
TURNS[5]["content"] = "Sí, she said."
SYSTEM = {"role": "system", "content": "Be short."}
_I = "<|im_start|>"
_CHATML = (
    f"{_I}user\nWhat is a moon?<|im_end|>\n"
    f"{_I}assistant\n« A rock. It goes round.\n\nSome are ice. <|im_end|>»\n"
    f"{_I}user\nA rock.\nWho says so?<|im_end|>\n{_I}assistant\n«A rock.<|im_end|>»\n"
    f"{_I}user\nIs “ice” a rock, señor?<|im_end|>\n{_I}assistant\n«Sí, she said.<|im_end|>»\n"
)
_H, _E = "<|start_header_id|>", "<|end_header_id|>\n\n"
_TRIMMED = "A rock. It goes round.\n\nSome are ice."

# Name, template, with a message of the system, and what is written.
WRITTEN = [
    (
        "llama3", LLAMA3, True,
        f"<s>{_H}system{_E}Be short.<|eot_id|>{_H}user{_E}What is a moon?<|eot_id|>"
        f"{_H}assistant{_E}«{_TRIMMED}<|eot_id|>»{_H}user{_E}A rock.\nWho says so?<|eot_id|>"
        f"{_H}assistant{_E}«A rock.<|eot_id|>»{_H}user{_E}Is “ice” a rock, señor?<|eot_id|>"
        f"{_H}assistant{_E}«Sí, she said.<|eot_id|>»",
    ),
    (
        "qwen", QWEN, False,
        f"{_I}system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
        f"<|im_end|>\n{_CHATML}",
    ),
    (
        "gemma", GEMMA, False,
        "<s><start_of_turn>user\nWhat is a moon?<end_of_turn>\n"
        f"<start_of_turn>model\n«{_TRIMMED}<end_of_turn>»\n"
        "<start_of_turn>user\nA rock.\nWho says so?<end_of_turn>\n"
        "<start_of_turn>model\n«A rock.<end_of_turn>»\n"
        "<start_of_turn>user\nIs “ice” a rock, señor?<end_of_turn>\n"
        "<start_of_turn>model\n«Sí, she said.<end_of_turn>»\n",
    ),
    (
        "mistral", MISTRAL, False,
        f"<s>[INST] What is a moon?[/INST]« {_TRIMMED}</s>»[INST] A rock.\nWho says so?[/INST]"
        "« A rock.</s>»[INST] Is “ice” a rock, señor?[/INST]« Sí, she said.</s>»",
    ),
    (
        # loop.last is a response here, so that this template drops the system's message.
        "mistral-system", MISTRAL, True,
        f"<s>[INST] What is a moon?[/INST]« {_TRIMMED}</s>»[INST] A rock.\nWho says so?[/INST]"
        "« A rock.</s>»[INST] Is “ice” a rock, señor?[/INST]« Sí, she said.</s>»",
    ),
    (
        "phi3", PHI3, True,
        "<|system|>\nBe short.<|end|>\n<|user|>\nWhat is a moon?<|end|>\n"
        "<|assistant|>\n« A rock. It goes round.\n\nSome are ice. <|end|>»\n"
        "<|user|>\nA rock.\nWho says so?<|end|>\n<|assistant|>\n«A rock.<|end|>»\n"
        "<|user|>\nIs “ice” a rock, señor?<|end|>\n<|assistant|>\n«Sí, she said.<|end|>»\n</s>",
    ),
    (
        "smollm2", SMOLLM2, False,
        f"{_I}system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        f"<|im_end|>\n{_CHATML}",
    ),
    (
        "thinks", THINKS, False,
        _CHATML.replace("«Sí", "«<think>\n\n</think>\n\nSí"),
    ),
]  # fmt: skip
