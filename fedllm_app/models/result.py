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


def result_folder(run: Path) -> Path:
    """Return where a run's result is, adapter/ or model/; ConfigError if it has none yet."""
    for name in RESULTS:
        if (run / name / ABOUT).is_file():
            return run / name
    raise ConfigError(f"{run} has neither adapter/ nor model/: the run has not ended yet")


def load_result(folder: Path, base: str = "", cache: Path | None = None) -> tuple[Any, Any, Any]:
    """Return the model of a result in eval mode, its tokenizer (or None), and its fedllm.json.

    Parameters
    ----------
    folder : of `result_folder`.
    base, cache : as in `merge`.

    Raises
    ------
    ConfigError
        If the base is not where it was, or does not load.
    """
    about = json.loads((folder / ABOUT).read_text())
    with without_bars():
        if folder.name == "model":
            check_files(folder)
            model = auto_model(about["task"]).from_pretrained(folder, dtype=torch.float32)
        else:
            source = base_of(folder, about, base, cache or Path.home() / ".fedllm" / "cache")
            model = PeftModel.from_pretrained(load_base(about, source).float(), folder)
        there = (folder / "tokenizer_config.json").is_file()
        tokenizer = AutoTokenizer.from_pretrained(folder) if there else None
    return model.eval(), tokenizer, about
