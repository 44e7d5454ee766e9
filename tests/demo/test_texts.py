"""The embedded texts: real, balanced, the same each time, and silent about where they come from."""

import re
from collections import Counter
from pathlib import Path

import pytest

from fedllm_app.core.errors import DataError
from fedllm_app.demo import docstrings
from fedllm_app.demo.docstrings import MIN_WORDS, texts_of
from fedllm_app.demo.texts import (
    ALIASES,
    MASK,
    TEXTS_PER_CLASS,
    embedded_texts,
    mask_names,
    unused_texts,
)

FEW = {"numpy": "numpy", "rich": "rich", "peft": "peft"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def small_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings, "DISTRIBUTIONS", FEW)
    monkeypatch.setattr(docstrings, "BYTES_PER_PACKAGE", 500_000)


def test_a_source_file_gives_its_documentation_but_no_examples() -> None:
    source = b'''"""Module  text
    over lines."""
class A:
    def f(self):
        """Method text.

        >>> f()
        """
x = 1 / 0
'''
    assert [t for t in texts_of(source) if t] == ["Module text over lines.", "Method text."]
    assert list(texts_of(b"def broken(")) == []


def test_names_are_masked_as_words_in_paths_and_inside_longer_words() -> None:
    names = {"torch", "nn", "np"}
    text = "Use torch.nn.Linear or nn.ReLU, not TorchScript; NP.zeros, inn and np_ stay apart."
    masked = mask_names(text, names, {"torch"})
    assert masked == f"Use {MASK} or {MASK}, not {MASK}; {MASK}, inn and np_ stay apart."
    assert mask_names("torch, torch. Torch", names, set()) == MASK
    assert mask_names("plain", set(), set()) == "plain"


def test_classification_rows_are_balanced_long_enough_and_without_repeats(cache: Path) -> None:
    rows = embedded_texts("sequence-classification", cache)
    assert rows.column_names == ["text", "label", "label_name", "user"]
    counts = Counter(rows["label_name"])
    assert set(counts) == {*FEW, docstrings.STANDARD_LIBRARY}
    assert max(counts.values()) <= TEXTS_PER_CLASS
    assert sorted(counts) == [
        name for _, name in sorted(set(zip(rows["label"], rows["label_name"], strict=True)))
    ]
    assert all(len(text.split()) >= MIN_WORDS for text in rows["text"])
    assert len(set(rows["text"])) == len(rows)


def test_no_text_names_its_own_package(cache: Path) -> None:
    for row in embedded_texts("sequence-classification", cache):
        words = set(re.findall(r"\w+", row["text"].lower()))
        package = row["label_name"]
        if package == docstrings.STANDARD_LIBRARY:
            assert not words & set(row["user"].lower().split("."))
        else:
            assert package.lower() not in row["text"].lower()
            assert not words & set(ALIASES.get(package, ()))


def test_next_token_users_are_whole_modules(cache: Path) -> None:
    rows = embedded_texts("next-token", cache)
    found = docstrings.documentation(cache)
    texts = Counter(found["module"])
    users = Counter(rows["user"])
    assert len(users) >= 4
    assert all(users[user] == texts[user] for user in users)


def test_what_is_unused_is_no_row_of_the_task(cache: Path) -> None:
    used = set(embedded_texts("next-token", cache)["text"])
    unused = set(unused_texts("next-token", cache))
    assert used and unused and not used & unused
    assert len(used | unused) == len(docstrings.documentation(cache))


def test_the_scan_is_done_once_and_repeats_itself(cache: Path, tmp_path: Path) -> None:
    first = embedded_texts("sequence-classification", cache)
    again = embedded_texts("sequence-classification", tmp_path)
    assert list(first) == list(again)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(docstrings, "_scan", lambda: pytest.fail("scanned twice"))
        assert list(embedded_texts("sequence-classification", tmp_path)) == list(first)


def test_a_missing_package_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(docstrings, "DISTRIBUTIONS", {"rich": "rich", "absent": "not-installed-x"})
    rows = embedded_texts("sequence-classification", tmp_path)
    assert set(rows["label_name"]) == {"rich", docstrings.STANDARD_LIBRARY}


def test_another_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"task\.name is 'image-classification'"):
        embedded_texts("image-classification", tmp_path)
    assert not any(tmp_path.iterdir())
