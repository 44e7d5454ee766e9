"""Images stay the bytes they came as; decoding, resizing and normalising wait for the batch.

Encoded bytes are ten times smaller than floats, and a client that is not sampled costs nothing.

Shapes: B batch, S side in pixels.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fedllm_app.core.errors import DataError
from fedllm_app.data.labels import label_numberer
from fedllm_app.data.settings import DataSettings
from fedllm_app.data.source import Source, require_column

if TYPE_CHECKING:
    from datasets import Dataset

    from fedllm_app.data.text import Batch


@dataclass(frozen=True)
class ImageSpec:
    """What a vision model expects.

    Attributes
    ----------
    mean, std : per colour channel, of values in 0..1.
    side : pixels.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    side: int = 224


def prepare_images(
    raw: "Dataset", source: Source, settings: DataSettings, labels: Sequence[str], file: Path
) -> None:
    """Write `raw` as Arrow with columns image (encoded bytes), label, user, source_row.

    Parameters
    ----------
    raw : rows as they are in the source.
    source : named in error messages.
    settings : columns.
    labels : label names.
    file : Arrow file to write.

    Raises
    ------
    DataError
        If a column is missing, or an image or label is not usable; the message names the row.
    """
    import datasets

    column = settings.image_column
    require_column(raw, "data.image-column", column, source)
    require_column(raw, "data.label-column", settings.label_column, source)
    if isinstance(raw.features[column], datasets.Image):
        raw = raw.cast_column(column, datasets.Image(decode=False))
    number = label_numberer(labels, settings.label_column, source)
    features = {
        "image": datasets.Value("binary"),
        "label": datasets.Value("int64"),
        "source_row": datasets.Value("int64"),
    }
    if settings.user_column in raw.column_names:
        features["user"] = datasets.Value("string")

    def convert(batch: "Batch", rows: list[int]) -> "Batch":
        """Return encoded images, label numbers and source rows; DataError names a bad row."""
        images = zip(batch[column], rows, strict=True)
        labels = zip(batch[settings.label_column], rows, strict=True)
        made: Batch = {
            "image": [_encoded(image, column, source, row) for image, row in images],
            "label": [number(value, row) for value, row in labels],
            "source_row": rows,
        }
        if "user" in features:
            made["user"] = [u if u is None else str(u) for u in batch[settings.user_column]]
        return made

    raw.map(
        convert,
        batched=True,
        batch_size=256,
        with_indices=True,
        remove_columns=raw.column_names,
        features=datasets.Features(features),
        cache_file_name=str(file),
        new_fingerprint=file.stem,
        load_from_cache_file=False,
        desc="preparing images",
    )


def pixels(images: Sequence[bytes], spec: ImageSpec) -> Tensor:
    """Return normalised float32 pixels of shape (B, 3, S, S) from encoded images.

    Parameters
    ----------
    images : B encoded files of any size and mode that PIL reads.
    spec : side, mean and standard deviation.

    Raises
    ------
    DataError
        If one of them cannot be decoded, or PIL is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(
            "a task of images decodes them with pillow, which is not installed; pip install pillow"
        ) from error
    raw = np.empty((len(images), spec.side, spec.side, 3), np.uint8)
    for i, encoded in enumerate(images):
        try:
            with Image.open(io.BytesIO(encoded)) as image:
                colour = image.convert("RGB")
        except (OSError, ValueError) as error:
            raise DataError(
                f"an image of data.image-column cannot be decoded ({len(encoded)} bytes, starting "
                f"{encoded[:8]!r}): {error}"
            ) from error
        if colour.size != (spec.side, spec.side):
            colour = colour.resize((spec.side, spec.side), Image.Resampling.BICUBIC)
        raw[i] = np.asarray(colour)
    scaled = torch.from_numpy(raw).permute(0, 3, 1, 2).float().div_(255)
    mean, std = (torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (spec.mean, spec.std))
    return scaled.sub_(mean).div_(std).contiguous()


def _encoded(image: object, column: str, source: Source, row: int) -> bytes:
    """Return the bytes of one image as datasets stores it: bytes, {bytes, path}, or a path."""
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    try:
        if isinstance(image, str):
            image = Path(image).read_bytes()
    except OSError as error:
        raise DataError(f"data.image-column {column!r} of {source}, row {row}: {error}") from error
    if not isinstance(image, bytes) or not image:
        raise DataError(
            f"data.image-column {column!r} of {source} holds {image!r} in row {row}; expected "
            "encoded images or absolute paths of images"
        )
    return image
