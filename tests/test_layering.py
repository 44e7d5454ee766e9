"""The house: a module imports only from the lines above its own, and Flower stays at the door."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fedllm_app"
# From the ground up. Parts on one line do not know each other.
HOUSE = [
    ["core"],
    ["data"],
    ["tasks"],
    ["models", "demo"],
    ["talk"],
    ["wire"],
    ["devices"],
    ["run"],
    ["report"],
    ["client", "server"],
    ["config"],
    ["place"],
    ["parts"],
    ["fitting"],
    ["opening", "ending", "measuring"],
    ["flower", "play"],
    ["deploy"],
    ["study"],
    ["cli"],
]
FLOOR = {part: floor for floor, parts in enumerate(HOUSE) for part in parts}
APPS = {"client_app.py", "server_app.py"}
EXTRAS = {"ray", "matplotlib", "tensorboard", "jinja2", "PIL", "gguf"}


def sources():
    return sorted([*PACKAGE.rglob("*.py"), ROOT / "client_app.py", ROOT / "server_app.py"])


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def imports(path, on_import=False):
    """Return the dotted names that a file imports; `on_import`: those of loading it alone."""
    todo, found = [ast.parse(path.read_text("utf-8"))], set()
    while todo:
        node = todo.pop()
        if on_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if on_import and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        todo += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def part_of(dotted):
    parts = dotted.split(".")
    return parts[1] if parts[0] == "fedllm_app" and len(parts) > 1 else ""


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_imports_come_from_above(path):
    own = Path(name_of(path)).with_suffix("").parts
    if own[0] != "fedllm_app" or own[1] == "__init__":
        return
    assert own[1] in FLOOR, f"{own[1]} has no place in the house; see HOUSE here and in docs"
    for dotted in imports(path):
        used = part_of(dotted)
        if used in FLOOR and used != own[1]:
            assert FLOOR[used] < FLOOR[own[1]], f"{name_of(path)} imports {dotted}"


def test_every_part_has_a_place():
    here = {p.stem if p.is_file() else p.name for p in PACKAGE.iterdir() if p.name[0] not in "_."}
    assert here <= set(FLOOR)


def test_one_room_and_the_two_apps_know_flower():
    using = {name_of(p) for p in sources() if any(i.split(".")[0] == "flwr" for i in imports(p))}
    assert all(
        name.startswith(("client_app.py", "server_app.py", "fedllm_app/flower/")) for name in using
    )


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_extras_are_imported_where_they_are_used(path):
    found = {i for i in imports(path, on_import=True) if i.split(".")[0] in EXTRAS}
    assert not found
    assert "torch.utils.tensorboard" not in imports(path, on_import=True)


def test_launching_needs_no_tensors():
    for name in ("launch", "superlink", "guard"):
        used = {i.split(".")[0] for i in imports(PACKAGE / "deploy" / f"{name}.py")}
        assert not used & {"flwr", "torch", "transformers", "numpy"}


BLOCK = """
import importlib.machinery, sys

found = importlib.machinery.PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.split(".")[0] in {absent} else found(name, path, target)

importlib.machinery.PathFinder.find_spec = staticmethod(find_spec)
"""


def run_without(absent, code):
    command = [sys.executable, "-c", BLOCK.format(absent=sorted(absent)) + code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_device_needs_no_extra():
    code = "import client_app, fedllm_app.flower.node, fedllm_app.play; print('fine')"
    done = run_without(EXTRAS, code)
    assert done.stdout.strip() == "fine", done.stderr[-2000:]


def test_settings_are_checked_without_torch():
    code = """
import client_app, server_app
from fedllm_app.config import RunConfig
from fedllm_app.core.errors import ConfigError
print(RunConfig.parse({}).resolved().summary()[:1])
try:
    RunConfig.parse({"strategy.d-up": 2.0, "client.lr": -1.0})
except ConfigError as error:
    print(len(str(error).splitlines()), "wrong")
"""
    done = run_without({"torch", "transformers", "peft", "datasets", "pyarrow"}, code)
    assert done.stdout.strip() == "2 wrong", done.stderr[-2000:]


def test_absent_means_absent():
    done = run_without({"jinja2"}, "import jinja2")
    assert "No module named 'jinja2'" in done.stderr


def test_the_ground_floor_is_light():
    code = "import fedllm_app.core.plan, fedllm_app.core.job, fedllm_app.wire.codec; print('fine')"
    done = run_without({"torch", "transformers", "peft", "datasets", "flwr"}, code)
    assert done.stdout.strip() == "fine", done.stderr[-2000:]
