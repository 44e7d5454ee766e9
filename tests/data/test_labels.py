"""The label set: the values of the data, or those of the setting, by value."""

import datasets
import numpy as np
import pyarrow
import pytest

from fedllm_app.core.errors import DataError
from fedllm_app.data.labels import fixed_labels, label_numberer
from fedllm_app.data.loading import Raw
from fedllm_app.data.settings import DataSettings
from fedllm_app.data.source import Source
from fedllm_app.data.usable import usable
from fedllm_app.tasks import TASKS

SOURCE = Source("data.train", "/x.parquet")
KIND = TASKS["sequence-classification"]


def read(given, known=None, test=False, feature=None, beside=None, **keys):
    """Return the usable rows of a column of labels."""
    columns = {"text": ["a"] * len(given), "label": given}
    if beside:
        columns["label_name"] = beside
    rows = datasets.Dataset.from_dict(columns)
    if feature is not None:
        rows = rows.cast_column("label", feature)
    return usable(Raw(rows), SOURCE, DataSettings(**keys), KIND, known, test)


def names(given, **how):
    found = read(given, **how)
    return list(found.labels.names), found.rows["label"][:]


def test_labels_are_the_values_that_occur_sorted():
    assert names([10, 3, 25, 3]) == (["3", "10", "25"], ["10", "3", "25", "3"])
    assert names([2, 1]) == (["1", "2"], ["2", "1"])
    assert names(["10", "9", "b"])[0] == ["10", "9", "b"]
    assert names(["02", "01"])[0] == ["01", "02"]
    assert names([True, False])[0] == ["False", "True"]
    assert names([-2, 1, -10])[0] == ["-10", "-2", "1"]
    assert names([0.0, 1.0, 0.0])[0] == ["0", "1"]


def test_the_setting_names_labels_by_value_in_its_own_order():
    assert names([0, 1, 2], labels="2,1,0") == (["2", "1", "0"], ["0", "1", "2"])
    assert names(["0", "1"], labels="2,1,0") == (["2", "1", "0"], ["0", "1"])
    assert names([0, 1], labels="3") == (["0", "1", "2"], ["0", "1"])
    assert names(["cat"], labels="cat, dog") == (["cat", "dog"], ["cat"])
    assert fixed_labels(DataSettings()) is None


def test_a_number_is_a_place_only_where_a_key_says_so():
    with pytest.raises(DataError, match=r"holds 1 in row 0; .*data.label-numbers = \"positions\""):
        names([1, 0], labels="cat,dog")
    keys = {"labels": "cat,dog", "label_numbers": "positions"}
    assert names([1, 0, 1], **keys) == (["cat", "dog"], ["dog", "cat", "dog"])
    assert names(["1", "cat"], **keys)[1] == ["dog", "cat"]
    with pytest.raises(DataError, match=r"holds 2 in row 1; data.labels has 2 names"):
        names([1, 2], **keys)


def test_a_data_set_that_declares_its_classes_names_them():
    classes = datasets.ClassLabel(names=["no", "yes", "maybe"])
    assert names([1, 0], feature=classes) == (["no", "yes", "maybe"], ["yes", "no"])
    assert names([1, 0], feature=classes, labels="yes,no")[1] == ["yes", "no"]
    assert names([1, 0], feature=classes, labels="3")[1] == ["1", "0"]


def test_a_name_column_names_the_numbers_that_occur():
    found = names([2, 0, 2], beside=["two", "zero", "two"])
    assert found == (["zero", "two"], ["two", "zero", "two"])
    assert names([2, 0], beside=[None, "zero"])[0] == ["zero", "2"]
    with pytest.raises(DataError, match="calls label 2 both 'two' and 'deux'"):
        names([2, 0, 2], beside=["two", "zero", "deux"])
    with pytest.raises(DataError, match="calls two labels 'x'"):
        names([2, 0], beside=["x", "x"])


def test_numbers_and_text_of_two_files_are_one_label_or_refused():
    train = read(["0", "1", "2"])
    assert read([2, 0], train.labels, test=True).rows["label"][:] == ["2", "0"]
    assert read([2.0, 0.0], train.labels, test=True).rows["label"][:] == ["2", "0"]
    with pytest.raises(DataError, match="holds 'two' in row 1; expected one of 3 labels"):
        read(["0", "two"], train.labels, test=True)
    named = read([0, 1], beside=["no", "yes"])
    assert read(["1"], named.labels, test=True).rows["label"][:] == ["yes"]


@pytest.mark.parametrize("labels", ["1", "0", "a", "a,a", "a,,b"])
def test_unusable_settings_are_refused(labels):
    with pytest.raises(DataError, match=r"data\.labels"):
        fixed_labels(DataSettings(labels=labels))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0.5, 1.0], "holds 0.5 in row 0; a number with a fraction is no label"),
        ([["a"], ["b"]], "holds values of type list<.*expected whole numbers, text"),
        (["a", "a"], "holds the one label 'a'"),
        (list(range(10_001)), "holds 10,001 different values, such as '0' and '10000'"),
    ],
)
def test_what_can_be_no_label_is_refused_in_words(labels, said):
    with pytest.raises(DataError, match=rf"data\.label-column 'label' of .*{said}"):
        names(labels, bad_rows="drop")


def test_a_label_of_a_date_is_refused_in_words():
    table = pyarrow.table({"text": ["a"], "label": np.array(["2020-01-01"], "datetime64[s]")})
    rows = datasets.Dataset(datasets.table.InMemoryTable(table))
    with pytest.raises(DataError, match="values of type timestamp"):
        usable(Raw(rows), SOURCE, DataSettings(), KIND, None)


def test_numbers_of_labels():
    number = label_numberer(["cat", "7"], "label", SOURCE)
    assert [number("7", 0), number(7, 1), number("cat", 2), number(7.0, 3)] == [1, 1, 0, 1]
    for bad in ("cow", 1, -1, None):
        with pytest.raises(DataError, match="in row 7"):
            number(bad, 7)
