"""The result of a run, found and loaded: base and adapter, or the whole model."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoTokenizer

from fedllm_app.core.errors import ConfigError
from fedllm_app.models.backbone import without_bars
from fedllm_app.models.export import ABOUT, RESULTS, base_of, load_base
from fedllm_app.models.files import check_files
from fedllm_app.models.suits import auto_model

DEVICES = ("auto", "cpu", "cuda")


def result_folder(run: Path) -> Path:
    """Return where a run's result is, adapter/ or model/; ConfigError if it has none yet."""
    for name in RESULTS:
        if (run / name / ABOUT).is_file():
            return run / name
    raise ConfigError(f"{run} has neither adapter/ nor model/: the run has not ended yet")


def computes_on(asked: str) -> tuple[str, torch.dtype]:
    """Return where a model answers and in which type: bfloat16 on a GPU, float32 on a CPU.

    Parameters
    ----------
    asked : "auto" (a GPU if this process sees one), "cpu" or "cuda".

    Raises
    ------
    ConfigError
        If it is something else, or a GPU that is not there.
    """
    if asked not in DEVICES:
        raise ConfigError(f"--device is {asked!r}; expected one of {', '.join(DEVICES)}")
    seen = torch.cuda.is_available()
    if asked == "cuda" and not seen:
        raise ConfigError(
            "--device is 'cuda', but this process sees no CUDA device; expected 'cpu' or 'auto', "
            "or a CUDA build of torch"
        )
    return ("cuda", torch.bfloat16) if seen and asked != "cpu" else ("cpu", torch.float32)


def load_result(
    folder: Path, base: str = "", cache: Path | None = None, device: str = "cpu"
) -> tuple[Any, Any, Any]:
    """Return the model of a result in eval mode, its tokenizer (or None), and its fedllm.json.

    Parameters
    ----------
    folder : of `result_folder`.
    base, cache : as in `merge`.
    device : as in `computes_on`, which tells the type, too.

    Raises
    ------
    ConfigError
        If the base is not where it was, or does not load, or the device is not there.
    """
    place, dtype = computes_on(device)
    about = json.loads((folder / ABOUT).read_text())
    with without_bars():
        if folder.name == "model":
            check_files(folder)
            model = auto_model(about["task"]).from_pretrained(folder, dtype=dtype)
        else:
            source = base_of(folder, about, base, cache or Path.home() / ".fedllm" / "cache")
            model = PeftModel.from_pretrained(load_base(about, source), folder)
        there = (folder / "tokenizer_config.json").is_file()
        tokenizer = AutoTokenizer.from_pretrained(folder) if there else None
    for parameter in model.parameters():  # tables of rotary positions stay float32
        parameter.data = parameter.data.to(dtype)
    return model.to(place).eval(), tokenizer, about
