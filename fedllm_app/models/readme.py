"""The README beside a saved result: what it is, what it scored, and the lines that load it.

The lines are plain transformers and peft, so that the result outlives this project; but for an
architecture of ours, which one import of it registers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedllm_app.data.image import ImageSpec
from fedllm_app.tasks import task_of


def readme_text(
    folder: Path,
    about: Mapping[str, Any],
    train: str,
    tokenizer: bool,
    image: ImageSpec | None,
) -> str:
    """Return the README of a saved result.

    Parameters
    ----------
    folder : where it will lie when it is read.
    about : content of fedllm.json.
    train : "lora", "head" or "full".
    tokenizer : whether one was saved with it.
    image : how images are scaled, for image tasks.
    """
    kind = "LoRA adapter" if train == "lora" else "Whole model"
    lines = [f"# {kind} for {about['task']}", "", f"Base model: `{about['base']}`", ""]
    if origin := about.get("converted_from"):
        lines += [
            f"This base was converted from `{origin['file']}` (sha256 `{origin['sha256']}`), and "
            "lies in a cache.",
        ]
        if train == "lora":
            lines += [
                "Where it is gone, this command converts the file again and writes base and "
                "adapter as one model:",
                "",
                "```bash",
                f"fedllm export {folder.parent} --merge OUT --base {origin['file']}",
                "```",
            ]
        lines += [""]
    lines += ["## Load it", "", "```python"]
    lines += load_lines(folder, about, train, tokenizer)
    lines += ["```", ""]
    if about.get("stop_ids"):
        lines += _talk(folder, about)
    if train == "lora" and about["dtype"] == "bfloat16":
        lines += [
            "Trained on a bfloat16 base. These lines round the base the same way, then compute in "
            "float32, so scores differ in the last digits.",
            "",
        ]
    if image is not None:
        mean, std = (", ".join(f"{x:g}" for x in xs) for xs in (image.mean, image.std))
        lines += [
            f"Images: RGB, {image.side} x {image.side} pixels, values in 0..1, "
            f"minus the mean ({mean}), divided by ({std}).",
            "",
        ]
    return "\n".join([*lines, *_tables(about)])


def _talk(folder: Path, about: Mapping[str, Any]) -> list[str]:
    """Return how to talk to it."""
    return [
        "## Talk to it", "", "```python", *chat_lines(about), "```", "",
        "Or in a terminal, with an answer that appears as it is generated:", "",
        "```bash", f"fedllm chat {folder.parent}", "```", "",
    ]  # fmt: skip


def _tables(about: Mapping[str, Any]) -> list[str]:
    """Return what it scored, and its labels by number."""
    lines = []
    if about["metrics"]:
        lines += ["## Scores", "", "| metric | value |", "|---|---|"]
        lines += [f"| {name} | {value:.6g} |" for name, value in about["metrics"].items()]
        lines += [""]
    if about["labels"]:
        lines += ["## Labels", "", "| number | label |", "|---|---|"]
        escaped = (str(label).replace("|", "\\|") for label in about["labels"])
        lines += [f"| {i} | {label} |" for i, label in enumerate(escaped)]
        lines += [""]
    return lines


def chat_lines(about: Mapping[str, Any]) -> list[str]:
    """Return python lines that answer a question; they follow `load_lines`."""
    return [
        'messages = [{"role": "user", "content": "What can you do?"}]',
        "inputs = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
        ")",
        "said = model.generate(",
        f"    **inputs, max_new_tokens=128, do_sample=False, eos_token_id={about['stop_ids']}",
        ")",
        'answer = tokenizer.decode(said[0, inputs["input_ids"].shape[1] :], '
        "skip_special_tokens=True)",
        "print(answer)",
    ]


def load_lines(folder: Path, about: Mapping[str, Any], train: str, tokenizer: bool) -> list[str]:
    """Return python lines that leave the result in `model`, and its tokenizer in `tokenizer`."""
    kind = task_of(about["task"])
    auto = kind.auto_model
    imports = f"from transformers import {auto}" + (", AutoTokenizer" if tokenizer else "")
    lines = ["import torch"]
    if module := about.get("registered_by"):
        lines += [f"import {module}  # an architecture that transformers does not have"]
    if train == "lora":
        lines += ["from peft import PeftModel", imports, ""]
        arguments = [repr(about["base"]), f"dtype=torch.{about['dtype']}"]
        if about["labels"]:
            lines += [f"labels = {about['labels']!r}"]
            arguments += ["num_labels=len(labels)", "id2label=dict(enumerate(labels))"]
            arguments += ["ignore_mismatched_sizes=True"]  # another head than ours may be there
        arguments += [f"{key}={value!r}" for key, value in kind.config.items()]
        if about["is_decoder"]:
            arguments += ["is_decoder=True"]
        if about["pad_token_id"] is not None:
            arguments += [f"pad_token_id={about['pad_token_id']}"]
        joined = "".join(f"    {argument},\n" for argument in arguments).rstrip("\n")
        lines += [f"model = {auto}.from_pretrained(", *joined.split("\n"), ").float()"]
        lines += [f"model = PeftModel.from_pretrained(model, {str(folder)!r}).eval()"]
    else:
        lines += [imports, ""]
        lines += [f"model = {auto}.from_pretrained({str(folder)!r}, dtype=torch.float32).eval()"]
    if tokenizer:
        lines += [f"tokenizer = AutoTokenizer.from_pretrained({str(folder)!r})"]
    return lines
