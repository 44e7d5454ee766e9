"""What is imported is declared, and what a device installs is no more than it uses."""

import ast
import json
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Where a distribution's name is not that of its import.
DISTRIBUTION = {
    "PIL": "pillow",
    "flwr_datasets": "flwr-datasets",
    "huggingface_hub": "huggingface-hub",
    "tomli_w": "tomli-w",
    "pydantic_core": "pydantic",  # which pins it
}
# Declared, though the files that are looked at import it nowhere.
INDIRECT = {
    "tensorboard",  # by torch.utils.tensorboard
    "gguf",  # by transformers, to read a GGUF file
    "psutil",  # by the command line `fedllm`, which a device has too
    "typer",  # the same
}
NOT_ON_A_DEVICE = {"ray", "flwr-datasets", "matplotlib", "seaborn", "tensorboard", "optuna"}


def imported(path):
    """Return the dotted names that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files_of(dotted):
    """Return the files of ours that importing a dotted name runs."""
    parts = dotted.split(".")
    paths = [ROOT.joinpath(*parts[:n]) for n in range(1, len(parts) + 1)]
    candidates = [c for p in paths for c in (p.with_suffix(".py"), p / "__init__.py")]
    return [c for c in candidates if c.is_file()]


def distributions(paths):
    """Return the distributions of the third-party packages that files import."""
    names = {dotted.split(".")[0] for path in paths for dotted in imported(path)}
    return {
        DISTRIBUTION.get(name, name)
        for name in names - sys.stdlib_module_names - {"fedllm_app", "client_app", "server_app"}
    }


def reached_from(start):
    """Return the file and all files of ours that it imports, directly or not."""
    todo, seen = [start], set()
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            ours = (name for name in imported(path) if name.startswith("fedllm_app"))
            todo += [file for name in ours for file in files_of(name)]
    return seen


def declared_in_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return {name_of(line) for line in project["dependencies"]}


def pins(file):
    """Return the versions that a requirements file pins, by distribution."""
    lines = (ROOT / file).read_text("utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name_of(name): version for name, version in pairs}


def name_of(requirement):
    """Return a requirement's distribution, normalised as PEP 503 says."""
    name = requirement
    for sign in "[<>=~! ;":
        name = name.partition(sign)[0]
    return name.strip().lower().replace("_", "-")


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    apps = [ROOT / "client_app.py", ROOT / "server_app.py"]
    used = distributions([*(ROOT / "fedllm_app").rglob("*.py"), *apps])
    assert used - declared_in_pyproject() == set()
    assert declared_in_pyproject() - used <= INDIRECT


def test_every_dependency_is_pinned():
    assert declared_in_pyproject() <= set(pins("requirements.txt"))


def test_a_device_is_given_what_the_client_app_imports_in_the_same_versions():
    used = distributions(reached_from(ROOT / "client_app.py"))
    device, every = pins("requirements-device.txt"), pins("requirements.txt")
    # Only data/partition.py imports flwr-datasets, for the Dirichlet partition of a simulation.
    assert used - set(device) == {"flwr-datasets"}
    assert set(device) - used <= INDIRECT
    assert {name: every[name] for name in device} == device


@pytest.mark.real
def test_a_device_installs_neither_ray_nor_plots(tmp_path):
    """Resolve the list as pip does on an empty machine; nothing is installed."""
    venv.create(tmp_path / "venv", with_pip=True)
    report = tmp_path / "report.json"
    command = [
        str(tmp_path / "venv" / "bin" / "python"), "-m", "pip", "install", "--quiet", "--dry-run",
        "--report", str(report), "-r", str(ROOT / "requirements-device.txt"),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    names = {name_of(x["metadata"]["name"]) for x in json.loads(report.read_text())["install"]}
    assert not names & NOT_ON_A_DEVICE
    # torch requires it, so that it is on every device; ours uses it for the report alone.
    assert {"torch", "jinja2"} <= names
