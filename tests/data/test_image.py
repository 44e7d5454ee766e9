"""Images from encoded bytes to normalised pixels."""

import io

import datasets
import numpy as np
import pytest
import torch

from fedllm_app.core.errors import DataError
from fedllm_app.data.image import ImageSpec, pixels, prepare_images
from fedllm_app.data.settings import DataSettings
from fedllm_app.data.source import Source
from fedllm_app.tasks import TaskSettings

Image = pytest.importorskip("PIL.Image")
SOURCE = Source("data.train", "/x.parquet")
HALF = ImageSpec(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), side=4)


def png(colour, size=(4, 4), mode="RGB"):
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, "PNG")
    return out.getvalue()


def test_pixels_are_normalised_per_channel():
    made = pixels([png((255, 0, 51))], HALF)
    assert made.shape == (1, 3, 4, 4)
    assert made.dtype == torch.float32
    np.testing.assert_allclose(made[0, :, 0, 0], [1, -1, 2 * 51 / 255 - 1], atol=1e-6)


def test_any_size_and_mode_becomes_the_side_of_the_model():
    made = pixels([png(255, (7, 3), "L"), png((255, 255, 255, 0), (2, 9), "RGBA")], HALF)
    assert made.shape == (2, 3, 4, 4)
    np.testing.assert_allclose(made, 1, atol=1e-6)


def test_a_batch_holds_pixels_and_labels():
    task = TaskSettings(name="image-classification").kind.make(0, HALF)
    batch = task.collate([{"image": png("red"), "label": 3}, {"image": png("blue"), "label": 1}])
    assert batch["pixel_values"].shape == (2, 3, 4, 4)
    assert batch["labels"].tolist() == [3, 1]


def test_images_stay_encoded(tmp_path):
    encoded = png("red")
    (tmp_path / "blue.png").write_bytes(png("blue"))
    raw = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": encoded}, {"path": str(tmp_path / "blue.png")}],
            "label": ["x", "y"],
        }
    ).cast_column("image", datasets.Image())
    prepare_images(raw, SOURCE, DataSettings(), ["x", "y"], tmp_path / "rows.arrow")
    made = datasets.Dataset.from_file(str(tmp_path / "rows.arrow")).to_dict()
    assert made["image"] == [encoded, png("blue")]
    assert made["label"] == [0, 1]


def test_bad_images_are_named(tmp_path):
    with pytest.raises(DataError, match="cannot be decoded"):
        pixels([b"no image"], HALF)
    raw = datasets.Dataset.from_dict({"image": [b"x", b""], "label": [0, 1]})
    with pytest.raises(DataError, match="in row 1"):
        prepare_images(raw, SOURCE, DataSettings(), ["0", "1"], tmp_path / "rows.arrow")
    with pytest.raises(DataError, match=r"data\.image-column is 'picture'.*\['image', 'label'\]"):
        prepare_images(
            raw, SOURCE, DataSettings(image_column="picture"), ["0", "1"], tmp_path / "rows.arrow"
        )
