"""Files as people have them: what is read from them, and what is said of a bad place in one."""

import gzip
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from fedllm_app.core.errors import DataError
from fedllm_app.data import columns, reading
from fedllm_app.data.settings import DataSettings
from fedllm_app.data.source import Source


def load(tmp_path, name, content, **keys):
    """Write a file and read it as a run does."""
    file = tmp_path / name
    if isinstance(content, str):
        content = content.encode(keys.get("encoding", "utf-8"))
    if name.endswith(".gz"):
        content = gzip.compress(content)
    if name.endswith(".zst"):
        with pyarrow.CompressedOutputStream(str(file), "zstd") as out:
            out.write(content)
    else:
        file.write_bytes(content)
    source = Source("data.train", str(file), settings=DataSettings(**keys))
    return source.load("", tmp_path / "scratch", tmp_path / "cache")


def refused(tmp_path, name, content, **keys):
    with pytest.raises(DataError) as caught:
        load(tmp_path, name, content, **keys)
    assert str(tmp_path / name) in str(caught.value)
    return str(caught.value).replace(str(tmp_path), "DIR")


def test_a_table_holds_text_as_it_is_written(tmp_path):
    content = (
        "text,label,user,age,share,text2\n"
        "NA,01,007,3,0.5,x\n"
        'null,02,7,4,1e3,"two\nlines, ""quoted"""\n'
        "12,,,,,\n"
        "\n"
        "2020-01-01,02,NA,6,2,\n"
    )
    assert load(tmp_path, "rows.csv", content).rows.to_dict() == {
        "text": ["NA", "null", "12", "2020-01-01"],
        "label": ["01", "02", None, "02"],
        "user": ["007", "7", None, "NA"],
        "age": [3, 4, None, 6],
        "share": [0.5, 1000.0, None, 2.0],
        "text2": ["x", 'two\nlines, "quoted"', None, None],
    }


@pytest.mark.parametrize(
    ("cells", "read"),
    [
        (["1", "10", "-1"], [1, 10, -1]),
        (["0.0", "", "1.0"], [0, None, 1]),
        (["1", "x", "2"], ["1", "x", "2"]),
        (["True", "False", "true"], ["True", "False", "true"]),
        (["0.5", "1", "2"], ["0.5", "1", "2"]),
    ],
)
def test_a_label_of_a_table_is_a_number_where_all_are(tmp_path, cells, read):
    content = "text,label\n" + "".join(f"a,{cell}\n" for cell in cells)
    assert load(tmp_path, "rows.csv", content).rows["label"][:] == read


def test_objects_hold_text_as_it_is_written(tmp_path):
    rows = [
        {"text": "2020-01-01T00:00:00", "label": True, "user": "007", "more": {"a": 1}},
        {"text": "b", "label": False, "user": 7, "other": [1, 2]},
        {"text": "c", "label": None, "user": 7.5, "more": "mixed"},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    expected = {
        "text": ["2020-01-01T00:00:00", "b", "c"],
        "label": [True, False, None],
        "user": ["007", "7", "7.5"],
        "more": ['{"a": 1}', None, "mixed"],
        "other": [None, [1, 2], None],
    }
    assert load(tmp_path, "a.jsonl", lines).rows.to_dict() == expected
    assert load(tmp_path, "b.json", json.dumps(rows, indent=1)).rows.to_dict() == expected
    by_column = {"text": {"0": "a", "5": "b"}, "label": {"0": 1, "5": 2}}
    whole = load(tmp_path, "c.json", json.dumps(by_column, indent=1))
    assert whole.rows.to_dict() == {"text": ["a", "b"], "label": [1, 2]}
    assert load(tmp_path, "d.json", '["a", "b"]').rows.to_dict() == {"text": ["a", "b"]}


def test_columns_that_mix_types_are_told_and_hurt_nobody_who_does_not_read_them(tmp_path):
    made = load(tmp_path, "a.jsonl", '{"text": "a", "label": "0"}\n{"text": "b", "label": 1}\n')
    assert made.odd == {"label": "mixes text and numbers: '0' in line 1 and 1 in line 2"}
    assert made.rows["label"][:] == ["0", "1"]
    made = load(tmp_path, "b.jsonl", '{"text": 5, "label": ["x"]}\n')
    assert made.odd == {
        "text": "holds numbers: 5 in line 1",
        "label": "holds lists: ['x'] in line 1",
    }


def test_blocks_are_brought_to_one_type(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "ROWS", 2)
    values = [1, None, 2.5, None, None, None, 3, "x"]
    lines = "".join(json.dumps({"text": "t", "v": v, "w": v}) + "\n" for v in values[:7])
    assert load(tmp_path, "a.jsonl", lines).rows["v"][:] == [1.0, None, 2.5, None, None, None, 3.0]
    lines += json.dumps({"text": "t", "v": "x", "only": True}) + "\n"
    made = load(tmp_path, "b.jsonl", lines).rows
    assert made["v"][:] == ["1", None, "2.5", None, None, None, "3", "x"]
    assert made["only"][:] == [None] * 7 + [True]
    cells = "text,label\n" + "a,1\n" * 3 + "a,x\n"
    assert load(tmp_path, "c.csv", cells).rows["label"][:] == ["1", "1", "1", "x"]


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\nä,x\n"),
        ("a.tsv", "text\tlabel\nä\tx\n"),
        ("a.jsonl", '{"text": "ä", "label": "x"}\n'),
        ("a.json", '[{"text": "ä",\n "label": "x"}]'),
    ],
)
def test_packed_and_plain_files_read_alike(tmp_path, name, content, packed):
    for encoding, before in (("utf-8", ""), ("utf-8", "\ufeff"), ("latin-1", ""), ("utf-16", "")):
        made = load(tmp_path, name + packed, before + content, encoding=encoding)
        assert made.rows.to_dict() == {"text": ["ä"], "label": ["x"]}


def test_a_delimiter_may_be_any_character(tmp_path):
    assert load(tmp_path, "a.csv", "text;label\na,b;x\n", delimiter=";").rows["text"][:] == ["a,b"]
    assert load(tmp_path, "a.csv", "text\tlabel\na\tx\n", delimiter="tab").rows["label"][:] == ["x"]


BROKEN = {
    "latin-1": ("a.csv", b"text,label\nfine,x\nd\xe9j\xe0,x\n",
                "data.train: line 3 (byte 19, 0xe9) of DIR/a.csv is not utf-8 text"),
    "utf-16": ("a.csv", "text,label\na,x\n".encode("utf-16"),
               "set data.encoding to that of the file, for example utf-16"),
    "other delimiter": ("a.csv", "text;label\na;x\n",
                        "DIR/a.csv has one column, 'text;label'; if it is several, set "
                        'data.delimiter = ";"'),
    "ragged": ("a.csv", "text,label\na,x\na,b,x\n",
               "line 3 of DIR/a.csv has another number of cells (it has 3 and the header 2)"),
    "short": ("a.tsv", "text\tlabel\na\n", "line 2 of DIR/a.tsv has another number of cells"),
    "open quote": ("a.csv", 'text,label\na,x\n"b,x\nc,y\n',
                   "a quote that opens in line 3 of DIR/a.csv is never closed"),
    "odd quote": ("a.csv", 'text,label\n"b"c,x\n', "line 2 of DIR/a.csv has a quote where none"),
    "twice": ("a.csv", "text,text\na,b\n", "DIR/a.csv has two columns named 'text'"),
    "torn line": ("a.jsonl", '{"text": "a"}\n{"text": "b\n', "line 2 of DIR/a.jsonl has torn JSON"),
    "surrogate": ("a.jsonl", '{"text": "a"}\n{"text": "\\ud83d"}\n',
                  "line 2 of DIR/a.jsonl has half a character (a lone surrogate)"),
    "no object": ("a.jsonl", '{"text": "a"}\n[1]\n', "line 2 of DIR/a.jsonl has no object of"),
    "torn list": ("a.json", '[{"text": "a"},\n{"text": ', "line 2 of DIR/a.json is not JSON"),
    "one object": ("a.json", '{\n"text": "a"\n}', "DIR/a.json is one object, and not of columns"),
    "no rows": ("a.csv", "text,label\n", "holds no rows"),
    "nothing": ("a.jsonl", "", "holds no rows"),
    "no parquet": ("a.parquet", b"PAR1 and so on", "DIR/a.parquet is no whole .parquet file"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_told_with_its_place_and_what_to_do(tmp_path, case):
    name, content, said = BROKEN[case]
    message = refused(tmp_path, name, content)
    assert said in message
    assert "\n" not in message
    assert case in ("no rows", "nothing") or any(
        word in message for word in ("set ", "mend", "expected", "write it again", "close it")
    )


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_packed_file_that_is_cut_off_is_told(tmp_path, suffix):
    file = tmp_path / f"a.csv{suffix}"
    load(tmp_path, file.name, "text,label\n" + "abc,x\n" * 1000)
    file.write_bytes(file.read_bytes()[:-20])
    source = Source("data.train", str(file))
    with pytest.raises(DataError, match=rf"{file} cannot be unpacked: .*not complete"):
        source.load("", tmp_path / "scratch", tmp_path)


def test_lines_that_cannot_be_read_are_dropped_where_the_key_says_so(tmp_path):
    lines = '{"text": "a"}\n{"text": \n{"text": "\\ud83d"}\n7\n{"text": "b"}\n{"te'
    made = load(tmp_path, "a.jsonl", lines, bad_rows="drop")
    assert made.rows["text"][:] == ["a", "b"]
    assert str(made.dropped) == (
        "2 with torn JSON (lines 2, 6); 1 with no object of names and values (line 4); "
        "1 with half a character (a lone surrogate) (line 3)"
    )
    made = load(tmp_path, "b.csv", 'text,label\na,x\na\n"b"c,x\nd,y\n', bad_rows="drop")
    assert made.rows["text"][:] == ["a", "d"]
    assert made.dropped.total == 2


def test_a_parquet_file_of_no_rows_beside_others_is_passed_over(tmp_path):
    schema = pyarrow.schema([("text", pyarrow.string())])
    none = pyarrow.table({"text": []}, schema)
    pyarrow.parquet.write_table(none, tmp_path / "train-0.parquet")
    source = Source("data.train", str(tmp_path), "train")
    with pytest.raises(DataError, match="holds no rows"):
        source.load("", tmp_path / "scratch", tmp_path)
    one = pyarrow.table({"text": ["a"]}, schema)
    pyarrow.parquet.write_table(one, tmp_path / "train-1.parquet")
    assert source.load("", tmp_path / "scratch", tmp_path).rows["text"][:] == ["a"]


def test_categories_of_pandas_are_text(tmp_path):
    table = pyarrow.table(
        {"text": ["a", "b"], "label": pyarrow.array(["x", "y"]).dictionary_encode()}
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    source = Source("data.train", str(tmp_path / "a.parquet"))
    rows = source.load("", tmp_path / "scratch", tmp_path).rows
    assert isinstance(rows, datasets.Dataset)
    assert rows["label"][:] == ["x", "y"]


def test_patterns_of_numbers_leave_identifiers_alone():
    import re

    assert all(re.match(columns.WHOLE, text) for text in ("0", "-3", "12345"))
    assert not any(re.match(columns.WHOLE, text) for text in ("007", "1.0", "", "1e3", "9" * 30))
