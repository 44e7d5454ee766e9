"""A copy without fedllm_app/demo: own data runs, and "embedded" is refused by the key's name."""

import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "fedllm_app"
CODE = """
from pathlib import Path

import fedllm_app
from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError
from fedllm_app.data import federated
from fedllm_app.parts import Parts
from fedllm_app.place import Place

assert Path(fedllm_app.__file__).parent == Path.cwd() / "fedllm_app"
own = {"data.train": "/data/rows.jsonl", "model.source": "some/model"}
Parts(config := RunConfig.parse(own), Place.of(config))
for key in ("data.train", "model.source"):
    try:
        RunConfig.parse(own | {key: "embedded"})
    except ConfigError as error:
        print(error)
"""


def test_without_the_demonstration_all_else_works(tmp_path):
    shutil.copytree(
        PACKAGE, tmp_path / "fedllm_app", ignore=shutil.ignore_patterns("__pycache__", "demo")
    )
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr[-2000:]
    for line, key in zip(lines, ("data.train", "model.source"), strict=True):
        assert line.startswith(f"{key} is 'embedded', which comes with the demonstration")


def test_nothing_imports_the_demonstration_by_name():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text("utf-8")
        if path.parent.name != "demo":
            assert "from fedllm_app.demo" not in text
            assert "import fedllm_app.demo" not in text
