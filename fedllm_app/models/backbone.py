"""Load any transformers backbone for a task: by hub name, local folder or GGUF file.

A backbone is loaded once per process. Its attribute `fresh_modules` names the modules that the
checkpoint had no values for; they are drawn from the run seed and trained together with the head,
so that nothing random is left frozen and a saved adapter holds all that the checkpoint lacks.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from fedllm_app.core.errors import ConfigError, first_line
from fedllm_app.core.seeds import seed_torch
from fedllm_app.data.templates import set_template
from fedllm_app.models.attention import attend_in_float32
from fedllm_app.models.dropout import silence_dropout
from fedllm_app.models.files import check_files
from fedllm_app.models.gguf import gguf_folder
from fedllm_app.models.mapped import mapped_source
from fedllm_app.models.quantized import quantized
from fedllm_app.models.settings import ModelSettings
from fedllm_app.models.suits import (
    SOURCES,
    auto_model,
    check_checkpoints,
    check_config,
    read_config,
)
from fedllm_app.models.targets import head_modules, inside
from fedllm_app.tasks import task_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def local_source(source: str, cache: Path) -> str:
    """Return what from_pretrained can open: a GGUF file is converted first, the rest stays."""
    if source.endswith(".gguf"):
        return str(gguf_folder(Path(source), cache))
    if (Path(source) / "model" / "config.json").is_file():
        raise ConfigError(
            f"model.source is {source!r}, the folder of a run; {str(Path(source) / 'model')!r} is "
            "the model that it ended with"
        )
    if Path(source).is_absolute() and not (Path(source) / "config.json").is_file():
        raise ConfigError(f"model.source is {source!r}: no config.json there; expected {SOURCES}")
    return source


def load_backbone(
    settings: ModelSettings,
    source: str,
    task: str,
    labels: Sequence[str],
    cache: Path,
    *,
    seed: int = 0,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> PreTrainedModel:
    """Return the task's model, in eval mode, with backbone dropout set and caches for text off.

    Parameters
    ----------
    source : folder, .gguf file or hub name; for "embedded" and "scratch:NAME" the folder that was
        made for it.
    task : as in task.name.
    labels : class names in order; empty for next-token.
    cache : folder for converted models.
    seed : the run's seed; what the source does not hold is drawn from it, the same in every
        process.
    tokenizer : gives the pad token and is checked against the vocabulary.

    Raises
    ------
    ConfigError
        If the source cannot be found, does not fit the task, or lacks most of the weights.
    """
    source = local_source(source, cache)
    check_files(Path(source), weights=settings.reads_weights)
    dtype = base_type(settings)
    with without_bars(), torch.random.fork_rng(devices=[]):
        seed_torch("backbone", seed)
        config = read_config(source, **config_overrides(task, labels))
        check_config(config, source, task, weights=settings.reads_weights)
        prepare_config(config, task, tokenizer)
        model, info = _made(settings, source, task, config, dtype, cache)
        model.name_or_path = model.config.name_or_path = source
    set_up(model, settings, narrow=dtype == torch.bfloat16)
    model.fresh_modules = _fresh_modules(model, source, info)
    return model.eval()


def base_type(settings: ModelSettings) -> torch.dtype:
    """Return the type of the weights.

    Nothing is frozen in a full run, so there is no base for model.dtype to rule.
    """
    return torch.float32 if settings.train == "full" else DTYPES[settings.dtype]


def set_up(model: PreTrainedModel, settings: ModelSettings, narrow: bool) -> None:
    """Set how a model computes, whether it has weights or shapes alone.

    Parameters
    ----------
    narrow : it computes in bfloat16.
    """
    if narrow:
        attend_in_float32(model)
    if settings.scratch:
        # A tokenizer may pad with its end token, which is to learn; a pad itself gets no gradient.
        model.get_input_embeddings().padding_idx = None
    if settings.checkpointing:
        checkpoint_layers(model)
    if not settings.dropout:
        silence_dropout(model)


def _stays(settings: ModelSettings) -> bool:
    """Return whether frozen weights are used as they lie in a file: on a CPU, in their type."""
    frozen = settings.train != "full" and not settings.quantize
    return frozen and device_of(settings) == "cpu"


def _made(
    settings: ModelSettings, source: str, task: str, config: PreTrainedConfig,
    dtype: torch.dtype, cache: Path,
) -> tuple[PreTrainedModel, dict[str, Any]]:  # fmt: skip
    """Return the model, drawn or read, and what its checkpoint lacks."""
    made = auto_model(task)
    try:
        if not settings.reads_weights:
            return made.from_config(config, dtype=dtype), {}
        stays = _stays(settings)
        model, info = made.from_pretrained(
            mapped_source(source, task, config, dtype, cache) if stays else source,
            config=config,
            dtype=dtype,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            trust_remote_code=False,
            **(quantized(settings) if settings.quantize else {}),
        )
    except ConfigError:
        raise
    except Exception as error:  # of whatever library reads this kind of file
        raise ConfigError(
            f"model.source is {source!r}, which does not load for task.name {task!r}: "
            f"{first_line(error).rstrip('.')}. Expected {SOURCES}"
        ) from error
    return model, info


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Let the layers of a model in training keep no activations inside (Chen et al. 2016).

    Raises
    ------
    ConfigError
        If the model is not made for it.
    """
    check_checkpoints(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def device_of(settings: ModelSettings) -> str:
    """Return the device that a process computes on.

    Raises
    ------
    ConfigError
        If it is to be CUDA, and this process sees none.
    """
    seen = torch.cuda.is_available()
    if settings.device == "cuda" and not seen:
        raise ConfigError(
            "model.device is 'cuda', but this process sees no CUDA device; expected 'cpu' or "
            "'auto', a CUDA build of torch, and in a simulation client-resources-num-gpus above 0"
        )
    return "cuda" if seen and settings.device != "cpu" else "cpu"


def config_overrides(task: str, labels: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of from_pretrained that fit a config to the task.

    Raises
    ------
    ConfigError
        If a task that needs labels has none.
    """
    kind = task_of(task)
    if not kind.needs_labels:
        return dict(kind.config)
    if not labels:
        raise ConfigError(
            f"task.name is {task!r} but there are no labels; set data.labels to their names"
        )
    return {**kind.config, "num_labels": len(labels), "id2label": dict(enumerate(labels))}


def load_tokenizer(settings: ModelSettings, source: str, cache: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer, padding on the right; one without a pad token pads with its end token.

    Raises
    ------
    ConfigError
        If there is none, or it has neither a pad nor an end token.
    """
    place = settings.tokenizer or source
    # A tokenizer of its own may lie in a folder without a model.
    alone = bool(settings.tokenizer) and not place.endswith(".gguf")
    folder = place if alone else local_source(place, cache)
    check_files(Path(folder), weights=False)
    with without_bars():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # of whatever library reads this kind of file
            raise ConfigError(
                f"no tokenizer at {place!r}: {first_line(error).rstrip('.')}. Set "
                "model.tokenizer to a folder or hub name that has one."
            ) from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ConfigError(
                f"the tokenizer at {place!r} has neither a pad nor an end token; set "
                "model.tokenizer to one that has"
            )
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    set_template(tokenizer, settings.chat_template)
    return tokenizer


def prepare_config(
    config: PreTrainedConfig, task: str, tokenizer: PreTrainedTokenizerBase | None
) -> None:
    """Set what a task asks of a config: no cache, one label a text, no look ahead, the pad token.

    Raises
    ------
    ConfigError
        If the tokenizer has more tokens than the model.
    """
    # A model that reads more than text keeps what concerns its text in a config of its own.
    text = config.get_text_config()
    for one in (config, text):
        if hasattr(one, "use_cache"):
            one.use_cache = False
    kind = task_of(task)
    if kind.images:
        return
    if kind.needs_labels:
        config.problem_type = "single_label_classification"
    elif kind.causal and hasattr(config, "is_decoder"):
        # Encoders look ahead unless told not to, and would read the token they are to predict.
        config.is_decoder = True
    pad = getattr(text, "pad_token_id", None)
    if tokenizer is not None:
        known = getattr(text, "vocab_size", None)
        if known and len(tokenizer) > known:
            raise ConfigError(
                f"the tokenizer has {len(tokenizer)} tokens, the model only {known}; "
                "set model.tokenizer to the one that model.source was trained with"
            )
        pad = tokenizer.pad_token_id
    elif pad is None:
        pad = getattr(text, "eos_token_id", None)
    config.pad_token_id = text.pad_token_id = pad


def _fresh_modules(model: PreTrainedModel, source: str, info: dict[str, Any]) -> tuple[str, ...]:
    """Return the smallest modules that hold all tensors without a value in the checkpoint."""
    mismatched = {
        key if isinstance(key, str) else key[0] for key in info.get("mismatched_keys", ())
    }
    missing = set(info.get("missing_keys", ())) | mismatched
    heads = head_modules(model)
    base = {name for name, _ in model.named_parameters() if not inside(name, heads)}
    lost = sorted(base & missing)
    wrong = sorted(base & mismatched)
    modules = {name.rpartition(".")[0] for name in lost}
    whole = all(not list(model.get_submodule(module).children()) for module in modules)
    if wrong or not whole or 2 * len(lost) > len(base):
        raise ConfigError(
            f"model.source is {source!r}: its weights do not fit its config: {len(lost)} of "
            f"{len(base)} tensors are missing or of another shape, the first is "
            f"{(wrong or lost)[0]!r}; expected a complete checkpoint"
        )
    modules |= {head for head in heads if any(inside(name, [head]) for name in missing)}
    return tuple(name for name, _ in model.named_modules() if name in modules)


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers' loading report and progress bar out of every worker's log."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
