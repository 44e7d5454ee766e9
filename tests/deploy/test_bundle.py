"""What a bundle holds, built by Flower itself from a copy of this checkout with private files."""

import io
import os
import shutil
import tomllib
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from fedllm_app.deploy.bundle import kept_back, too_deep, unshipped_modules

ROOT = Path(__file__).parents[2]
PRIVATE = {
    "data/private.jsonl": '{"text": "my secret"}\n',
    "notes.md": "my secret",
    "fedllm_app/settings.yaml": "my: secret",
    "mine.json": '"my secret"',
    "data/large.jsonl": '{"text": "' + "0123456789" * 10 + '"}\n',
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Copy what is committed here, with private files, 11 MB that do not shrink, and a module."""
    folder = tmp_path_factory.mktemp("apps") / "fedllm"
    caches = shutil.ignore_patterns("__pycache__")
    for name in ("fedllm_app", "docs", "recipes"):
        shutil.copytree(ROOT / name, folder / name, ignore=caches)
    for name in ("client_app.py", "server_app.py", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, folder)
    shutil.copy(ROOT / ".gitignore", folder)
    (folder / "data").mkdir(exist_ok=True)
    for name, text in PRIVATE.items():
        (folder / name).write_text(text)
    (folder / "data" / "large.jsonl").write_text(os.urandom(11_000_000).hex())
    (folder / "my_method.py").write_text("MINE = 1\n")
    (folder / "my_package").mkdir()
    (folder / "my_package" / "method.py").write_text("MINE = 1\n")
    return folder


def test_only_the_apps_own_code_travels(checkout):
    bundle = zipfile.ZipFile(io.BytesIO(build_fab_from_disk(checkout)))
    names = set(bundle.namelist())
    app, devices = ROOT / "fedllm_app", ROOT / "fedllm_app" / "devices" / "profiles"
    own = {p.relative_to(ROOT).as_posix() for p in (*app.rglob("*.py"), *devices.glob("*.toml"))}
    assert names == own | {
        "client_app.py", "server_app.py", "my_method.py", "pyproject.toml", "LICENSE",
        ".info/CONTENT",
    }  # fmt: skip
    assert not any(b"my secret" in bundle.read(name) for name in names)


def test_the_run_says_what_stays_here(checkout):
    said = kept_back(checkout)
    assert said.startswith("Not sent to devices, though Flower would send them: data/large.jsonl, ")
    assert "and 3 more (22.0 MB)" in said
    assert "README.md" not in said
    (checkout / ".gitignore").write_text("data/\nnotes.md\n*.yaml\nmine.json\nmy_package\n")
    assert kept_back(checkout) == ""


def test_a_module_that_does_not_travel_is_refused_by_its_key(checkout):
    def problems(**keys):
        return list(unshipped_modules(checkout, {k.replace("_", "."): v for k, v in keys.items()}))

    assert problems(strategy_name="my_method:MINE", task_name="numpy:array") == []
    (found,) = problems(strategy_name="my_package.method:MINE")
    assert found.startswith("strategy.name is 'my_package.method:MINE', and my_package/method.py")
    assert '"/my_package/**/*.py" in fab-include' in found


def test_without_the_list_all_of_it_would_travel(checkout):
    file = checkout / "pyproject.toml"
    text = file.read_text("utf-8")
    (checkout / "data" / "large.jsonl").rename(checkout / "large.bin")
    (checkout / ".gitignore").write_text("")
    file.write_text("\n".join(x for x in text.splitlines() if not x.startswith("fab-include")))
    bundle = zipfile.ZipFile(io.BytesIO(build_fab_from_disk(checkout)))
    assert {"data/private.jsonl", "notes.md", "mine.json"} <= set(bundle.namelist())
    assert kept_back(checkout) == ""
    (checkout / "large.bin").rename(checkout / "data" / "large.jsonl")
    with pytest.raises(ValueError, match="FAB size exceeds"):
        build_fab_from_disk(checkout)
    file.write_text(text)
    assert build_fab_from_disk(checkout)


def test_a_file_that_lies_too_deep_is_told_before_flower_stops_at_it(checkout):
    assert list(too_deep(checkout)) == []
    folder = checkout.joinpath("deep", *"123456789", "10")
    folder.mkdir(parents=True)
    (folder / "x.json").write_text("{}")
    with pytest.raises(Exception, match="depth"):
        build_fab_from_disk(checkout)
    (found,) = too_deep(checkout)
    assert found.startswith("deep/1/2/3/4/5/6/7/8/9/10/x.json lies more than 10 folders deep")
    (checkout / ".gitignore").write_text("deep/\n")
    assert list(too_deep(checkout)) == []
    assert build_fab_from_disk(checkout)


def test_the_list_has_no_line_that_ships_data():
    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    include = table["tool"]["flwr"]["app"]["fab-include"]
    own = (".py", "/LICENSE", "/fedllm_app/devices/profiles/*.toml")
    assert all(pattern.endswith(own) for pattern in include)
