"""How a backbone wants its images: side, mean and standard deviation."""

import json
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from fedllm_app.core.errors import ConfigError
from fedllm_app.data.image import ImageSpec
from fedllm_app.models.suits import read_config


def image_spec(source: str, side: int = 0) -> ImageSpec:
    """Return how the source's image processor scales images.

    Parameters
    ----------
    source : local folder or hub name. Without a processor, ImageNet's mean and std are taken.
    side : wanted side in pixels; 0 means the source's own.

    Raises
    ------
    ConfigError
        If the source cannot be found, or does not say which side it takes.
    """
    config = read_config(source)
    found = cached_file(
        source,
        "preprocessor_config.json",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    processor = json.loads(Path(found).read_text()) if found else {}
    known = getattr(config, "image_size", None)
    own: Any = processor.get("crop_size") or processor.get("size") or known
    if isinstance(own, dict):
        own = own.get("height") or own.get("shortest_edge") or known
    if isinstance(own, (list, tuple)):
        own = own[0]
    if not side and not own:
        raise ConfigError(
            f"model.source is {source!r}, a model of type {config.model_type!r} that names no "
            "image side; expected a model for images, or set data.image-side"
        )
    mean = processor.get("image_mean") or (0.485, 0.456, 0.406)
    std = processor.get("image_std") or (0.229, 0.224, 0.225)
    return ImageSpec(tuple(mean), tuple(std), side or int(own))
