"""The label set, from the data or from the setting."""

import datasets
import pytest

from fedllm_app.core.errors import DataError
from fedllm_app.data.labels import fixed_labels, label_names, label_numberer
from fedllm_app.data.source import DataSettings, Source

SOURCE = Source("data.train", "/x.parquet")


def names(labels, settings=None, **columns):
    raw = datasets.Dataset.from_dict({"label": labels, **columns})
    return label_names(settings or DataSettings(), raw, SOURCE)


def test_whole_numbers_keep_their_number_and_text_is_sorted():
    assert names([2, 0, 2]) == ["0", "1", "2"]
    assert names(["b", "a", "b"]) == ["a", "b"]


def test_a_name_column_names_the_numbers_that_occur():
    assert names([2, 0, 2], label_name=["two", "zero", "two"]) == ["zero", "1", "two"]


def test_declared_class_names_are_taken():
    raw = datasets.Dataset.from_dict({"label": [1, 0]})
    raw = raw.cast_column("label", datasets.ClassLabel(names=["no", "yes"]))
    assert label_names(DataSettings(), raw, SOURCE) == ["no", "yes"]


def test_the_setting_overrules_the_data():
    assert names([0, 1], DataSettings(labels="3")) == ["0", "1", "2"]
    assert names([0, 1], DataSettings(labels="cat, dog")) == ["cat", "dog"]
    assert fixed_labels(DataSettings()) is None


@pytest.mark.parametrize("labels", ["1", "0", "a", "a,a", "a,,b"])
def test_unusable_settings_are_refused(labels):
    with pytest.raises(DataError, match=r"data\.labels"):
        fixed_labels(DataSettings(labels=labels))


@pytest.mark.parametrize(
    ("labels", "shown"),
    [([0, -1], "-1"), ([0.5, 1.0], "0.5"), (["a", None], "None"), ([1, 99_999], "99999")],
)
def test_unusable_labels_are_named(labels, shown):
    with pytest.raises(DataError, match=shown):
        names(labels)


def test_one_label_is_no_task():
    with pytest.raises(DataError, match="one label"):
        names(["a", "a"])


def test_numbers_of_labels():
    number = label_numberer(["cat", "dog"], "label", SOURCE)
    assert [number("dog", 0), number(0, 1)] == [1, 0]
    for bad in ("cow", 2, -1, None, 0.0):
        with pytest.raises(DataError, match="in row 7"):
            number(bad, 7)
