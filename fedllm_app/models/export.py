"""Write a result that loads without this project, and merge adapters into their base.

A run ends in `adapter/` (PEFT's own format) or, when the head alone or the whole model was trained,
in `model/` (transformers' own format). A README beside the weights holds the lines that load them;
`fedllm.json` holds what those lines need, for `merge`.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from fedllm_app.core.errors import ConfigError, DataError, first_line
from fedllm_app.core.files import fsync_tree
from fedllm_app.data.chat import stop_ids
from fedllm_app.data.image import ImageSpec
from fedllm_app.models import own
from fedllm_app.models.backbone import DTYPES, config_overrides, local_source, without_bars
from fedllm_app.models.files import check_files
from fedllm_app.models.gguf import converted_from
from fedllm_app.models.readme import readme_text
from fedllm_app.models.suits import auto_model
from fedllm_app.models.targets import inside
from fedllm_app.models.trainable import TrainableModel, base_fingerprint
from fedllm_app.tasks import task_of

ABOUT = "fedllm.json"
RESULTS = ("adapter", "model")  # where a result is, one of both


def has_result(folder: Path, round: int) -> bool:
    """Say whether a run's folder holds the result after a round.

    A result of an earlier version does not say after which round; one of a shorter run does.
    """
    files = (folder / result / ABOUT for result in RESULTS)
    written = (json.loads(file.read_text()) for file in files if file.exists())
    return any(about.get("round", round) == round for about in written)


def save_adapter(
    model: TrainableModel,
    run_folder: Path,
    *,
    task: str,
    source: str,
    labels: Sequence[str] = (),
    tokenizer: PreTrainedTokenizerBase | None = None,
    image: ImageSpec | None = None,
    round: int = 0,
    metrics: Mapping[str, float] | None = None,
) -> Path:
    """Write the model's current values as run_folder/adapter or run_folder/model.

    A folder of that name from an earlier save is replaced as a whole.

    Parameters
    ----------
    model : its flat values are written as they are: load the evaluated vector first.
    task : as in task.name.
    source : folder or hub name that the backbone was loaded from.
    labels : class names in order; empty for next-token.
    tokenizer, image : how inputs are made; what is given is saved or described.
    round : after which the values are these.
    metrics : by name, shown in the README.

    Returns
    -------
    The folder written.
    """
    folder = run_folder / ("adapter" if model.train == "lora" else "model")
    work = run_folder / f".{folder.name}.writing"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    base = str(folder / "base") if model.random_base else source
    with without_bars():
        if model.train == "lora":
            _save_lora(model, work, base)
        else:
            _save_transformers(model.backbone, work, _own_copies(model))
        if tokenizer is not None:
            tokenizer.save_pretrained(work)
    about: dict[str, Any] = {
        "task": task,
        "base": base,
        **_facts(model),
        "labels": list(labels),
        "converted_from": converted_from(source),
        "round": round,
        "metrics": dict(metrics or {}),
    }
    if tokenizer is not None and task_of(task).chat:
        about["stop_ids"] = stop_ids(tokenizer)
    (work / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
    text = readme_text(folder, about, model.train, tokenizer is not None, image)
    (work / "README.md").write_text(text)
    _replace(folder, work)
    return folder


def _facts(model: TrainableModel) -> dict[str, Any]:
    """Return what fedllm.json says of a model alone."""
    config = model.backbone.config
    return {
        "dtype": _dtype_name(model),
        "fingerprint": model.fingerprint,
        "is_decoder": bool(getattr(config, "is_decoder", False)),
        "pad_token_id": getattr(config, "pad_token_id", None),
        "registered_by": own.__name__ if config.model_type in own.OWN else "",
        "quantized": getattr(model.backbone, "is_quantized", False),
    }


def merge(folder: Path, out: Path, base: str = "", cache: Path | None = None) -> Path:
    """Write base and adapter as one float32 transformers model, which needs no PEFT to load.

    Parameters
    ----------
    folder : an adapter/ folder that `save_adapter` wrote.
    out : new or empty folder.
    base : folder, hub name or .gguf file of the base; "" takes where it was in training.
    cache : folder for a base that is converted from a .gguf file.

    Raises
    ------
    ConfigError
        If `folder` is not an adapter, `out` holds files, or the base is not where it was.
    DataError
        If the base is not the one that was trained.
    """
    if not (folder / "adapter_config.json").is_file() or not (folder / ABOUT).is_file():
        raise ConfigError(
            f"{str(folder)!r} is no adapter: expected a folder with adapter_config.json and "
            f"{ABOUT}; a model/ folder is whole already and needs no merging"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{str(out)!r} is in use; expected a new or empty folder")
    about = json.loads((folder / ABOUT).read_text())
    source = base_of(folder, about, base, cache or Path.home() / ".fedllm" / "cache")
    with without_bars():
        model = load_base(about, source)
        heads = PeftConfig.from_pretrained(folder).modules_to_save or []
        found = base_fingerprint(
            (name, tensor) for name, tensor in model.state_dict().items() if not inside(name, heads)
        )
        # A base in few bits has a fingerprint of its own; what is merged is the whole one.
        if found != about["fingerprint"] and not about.get("quantized"):
            raise DataError(
                f"the base at {source!r} has fingerprint {found}; expected "
                f"{about['fingerprint']}, the one this adapter was trained on; --base names another"
            )
        merged = PeftModel.from_pretrained(model.float(), folder).merge_and_unload()
        if about.get("stop_ids"):  # where the chat template ends an answer
            merged.generation_config.eos_token_id = list(about["stop_ids"])
        out.mkdir(parents=True, exist_ok=True)
        _save_transformers(merged, out, None)
        if (folder / "tokenizer_config.json").is_file():
            AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    return out


def load_base(about: Mapping[str, Any], source: str = "") -> PreTrainedModel:
    """Return the base that an adapter's fedllm.json tells of, in the type it was trained in.

    Parameters
    ----------
    about : content of fedllm.json.
    source : where it is; "" where it was in training.

    Raises
    ------
    ConfigError
        If it does not load from there.
    """
    source = source or about["base"]
    more: dict[str, Any] = {"is_decoder": True} if about["is_decoder"] else {}
    if about["pad_token_id"] is not None:
        more["pad_token_id"] = about["pad_token_id"]
    check_files(Path(source))
    auto, overrides = auto_model(about["task"]), config_overrides(about["task"], about["labels"])
    try:
        model: PreTrainedModel = auto.from_pretrained(
            source,
            dtype=DTYPES[about["dtype"]],
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
            **overrides,
            **more,
        )
    except Exception as error:  # of whatever library reads this kind of file
        raise ConfigError(
            f"the base {source!r} of this adapter does not load: {first_line(error).rstrip('.')}. "
            "Expected the model it was trained on: --base takes its folder, hub name or .gguf file"
        ) from error
    return model


def base_of(folder: Path, about: Mapping[str, Any], base: str, cache: Path) -> str:
    """Return where an adapter's base is; ConfigError if it was a folder and is gone."""
    if base:
        given = Path(base).resolve()
        local = given.exists() or Path(base).is_absolute() or base.endswith(".gguf")
        file = given if base.endswith(".gguf") else given / "config.json"
        if local and not file.is_file():
            raise ConfigError(
                f"--base is {base!r}: no {file.name} there; expected the folder, hub name or "
                ".gguf file of the base"
            )
        return local_source(str(given), cache) if local else base
    was = Path(about["base"])
    if was.is_dir() or not was.is_absolute():
        return str(about["base"])
    if (folder / "base").is_dir():  # a base drawn from the seed moves with its adapter
        return str(folder / "base")
    origin = about.get("converted_from")
    made = (
        f", which was converted from {origin['file']} (sha256 {origin['sha256']})" if origin else ""
    )
    raise ConfigError(
        f"the base of this adapter, {str(was)!r}{made}, is not there anymore; expected --base with "
        f"its folder, hub name or .gguf file (its fingerprint is {about['fingerprint']})"
    )


def _replace(folder: Path, by: Path) -> None:
    """Give a finished folder the name of one that may be there."""
    fsync_tree(by)
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    by.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _save_lora(model: TrainableModel, work: Path, base: str) -> None:
    model.model.peft_config["default"].base_model_name_or_path = base
    # PEFT would ask the hub whether the vocabulary has grown.
    model.model.save_pretrained(work, save_embedding_layers=False)
    if model.random_base:
        frozen = {
            name.replace(".base_layer.", ".").replace(".original_module.", "."): tensor
            for name, tensor in model.backbone.state_dict().items()
            if ".lora_" not in name and ".modules_to_save." not in name
        }
        _save_transformers(model.backbone, work / "base", frozen)


def _save_transformers(
    model: PreTrainedModel, folder: Path, tensors: dict[str, Tensor] | None
) -> None:
    """Save with the cache for generated text on, which training keeps off."""
    cached = getattr(model.config, "use_cache", None)
    if cached is not None:
        model.config.use_cache = True
    try:
        model.save_pretrained(folder, state_dict=tensors)
    finally:
        if cached is not None:
            model.config.use_cache = cached


def _own_copies(model: TrainableModel) -> dict[str, Tensor]:
    """Return the state with trained tensors cloned: as views they look tied to safetensors."""
    start = model.flat.data_ptr()
    end = start + model.flat.numel() * model.flat.element_size()
    clones: dict[int, Tensor] = {}
    state = {}
    for name, tensor in model.backbone.state_dict().items():
        at = tensor.data_ptr()
        state[name] = clones.setdefault(at, tensor.clone()) if start <= at < end else tensor
    return state


def _dtype_name(model: TrainableModel) -> str:
    frozen = {p.dtype for p in model.backbone.parameters() if not p.requires_grad}
    return "bfloat16" if torch.bfloat16 in frozen else "float32"
