"""What a model would be refused for, told in seconds and before an engine starts.

The model is built on torch's meta device, where tensors have shapes and no memory, so its size does
not matter. What only the weights can tell, such as a tensor that the checkpoint lacks, is left.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from fedllm_app.models.adapter import check_rank
from fedllm_app.models.backbone import config_overrides, local_source, prepare_config, without_bars
from fedllm_app.models.files import check_files
from fedllm_app.models.positions import check_positions
from fedllm_app.models.settings import LoraSettings, ModelSettings
from fedllm_app.models.suits import auto_model, check_checkpoints, check_config, read_config
from fedllm_app.models.targets import adapted, lora_targets
from fedllm_app.tasks import task_of


def check_model(
    settings: ModelSettings,
    lora: LoraSettings,
    source: str,
    task: str,
    labels: Sequence[str],
    max_tokens: int,
    cache: Path,
    tokenizer: Callable[[], PreTrainedTokenizerBase] | None = None,
    answer_tokens: int = 0,
) -> None:
    """Refuse a model that cannot be trained as the settings ask; nothing is read but its heads.

    Parameters
    ----------
    settings, lora : of the run.
    source : folder, .gguf file or hub name; for "embedded" the folder that was made for it.
    task, max_tokens : as in task.name and task.max-tokens.
    labels : class names; any two where they are not known yet.
    cache : folder for converted models.
    tokenizer : loads it; None leaves its size unchecked.
    answer_tokens : that a run generates behind a row.

    Raises
    ------
    ConfigError
        Torn files or pointers, quantized weights, no model of the task, targets or a rank that
        do not fit, or too few positions.
    """
    source, pretrained = local_source(source, cache), settings.reads_weights
    check_files(Path(source), weights=pretrained)
    config = read_config(source, **config_overrides(task, labels))
    check_config(config, source, task, weights=pretrained)
    prepare_config(config, task, tokenizer() if tokenizer else None)
    with without_bars(), torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = auto_model(task).from_config(config)
    if settings.checkpointing:
        check_checkpoints(model)
    if not task_of(task).images:
        check_positions(model, max_tokens, answer_tokens)
    if settings.train == "lora":
        check_rank(adapted(model, lora_targets(model, lora.targets, ())), lora.rank)
