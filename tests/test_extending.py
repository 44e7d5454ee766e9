"""docs/extending.md is true: each section's files are written, imported and run.

A section that ends in a fenced toml block is an example. Its files are the python blocks that a
line "File `NAME.py`:" stands above; the toml block holds keys of the run-config.
"""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from fedllm_app.config import RunConfig
from fedllm_app.core.settings import flatten
from fedllm_app.play import run_local
from fedllm_app.run.metrics import read_lines
from fedllm_app.tasks import TaskSettings

TEXT = (Path(__file__).parents[1] / "docs" / "extending.md").read_text("utf-8")
FILE = re.compile(r"^File `([\w./]+)`:\n+```python\n(.*?)^```", re.M | re.S)
KEYS = re.compile(r"^```toml\n(.*?)^```\s*\Z", re.M | re.S)
QUICK = {"run.rounds": 1, "partition.clients": 4, "round.clients": 2, "lora.rank": 2}


def examples():
    """Yield the title of each example, its files by name, and its keys."""
    for section in re.split(r"^## ", TEXT, flags=re.M)[1:]:
        title, _, body = section.partition("\n")
        if keys := KEYS.search(body):
            files = dict(FILE.findall(body))
            yield pytest.param(files, flatten(tomllib.loads(keys[1])), id=title.replace(" ", "-"))


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Return a function that writes files where modules are found, until the test is over."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    yield write
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize(("files", "keys"), list(examples()))
def test_an_example_runs(files, keys, tiny, written, request):
    assert files
    assert all(sum(map(bool, text.splitlines())) < 40 for text in files.values())
    written(files)
    kind = TaskSettings(name=keys.get("task.name", TaskSettings().name)).kind
    own = tiny.keys("next-token" if kind.causal else "sequence-classification")
    name = re.sub(r"\W+", "-", request.node.name)
    folder = run_local(RunConfig.parse(own | QUICK | {"task.name": TaskSettings().name} | keys
                                       | {"run.name": name}))  # fmt: skip
    last = read_lines(folder / "metrics.jsonl")[-1]
    assert (last["round"], last["dropped"]) == (QUICK["run.rounds"], {})
    assert next(iter(last["evaluation"])) == kind.headline
    assert set(last["evaluation"]) == set(kind.metric_names)


def test_the_text_is_where_the_examples_are():
    assert {example.id for example in examples()} >= {"A-task", "A-data-set", "A-partition-law"}
