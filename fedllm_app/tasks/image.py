"""Image classification: one label per image.

Shapes: B batch, S side in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_app.tasks.base import Rows, TaskKind
from fedllm_app.tasks.classify import METRICS, Classification
from fedllm_app.tasks.sums import OF_LABELS

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from fedllm_app.data.image import ImageSpec
    from fedllm_app.data.settings import DataSettings
    from fedllm_app.data.source import Source


@dataclass(frozen=True)
class ImageClassification(Classification):
    """One label per image."""

    image: "ImageSpec"

    def collate(self, rows: Rows) -> "dict[str, Tensor]":
        """Return pixel_values of shape (B, 3, S, S), float32, and labels of shape (B,), int64."""
        import torch

        from fedllm_app.data.image import pixels

        return {
            "pixel_values": pixels([row["image"] for row in rows], self.image),
            "labels": torch.tensor([row["label"] for row in rows]),
        }


def _prepare(
    raw: "Dataset",
    source: "Source",
    settings: "DataSettings",
    tokenizer: Any,
    max_tokens: int,
    labels: Sequence[str] | None,
    file: Path,
) -> None:
    from fedllm_app.data.image import prepare_images

    prepare_images(raw, source, settings, labels or [], file)


def _make(pad_id: int, image: "ImageSpec | None") -> ImageClassification:
    from fedllm_app.data.image import ImageSpec

    return ImageClassification(image or ImageSpec())


IMAGE_CLASSIFICATION = TaskKind(
    name="image-classification",
    auto_model="AutoModelForImageClassification",
    columns=("image", "label"),
    metrics=METRICS,
    prepare=_prepare,
    make=_make,
    needs_labels=True,
    has_head=True,
    images=True,
    sums=OF_LABELS,
    reads=("image_column", "label_column"),
)
