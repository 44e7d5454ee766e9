"""Run the app with `flwr run` on a SuperLink of its own, and leave nothing running afterwards.

A failed run is reported as a failure, which `flwr run --stream` does not do: its exit code is 0
whenever the run could be started, so the run's status is asked for at the end.
"""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import tomli_w

from fedllm_app.config import is_text
from fedllm_app.core.errors import ConfigError
from fedllm_app.deploy.superlink import SCRIPTS, local_superlink


def find_app() -> Path:
    """Return the folder that `flwr run` takes: the working directory, or the checkout.

    Modules are found there from then on: a strategy of one's own (MODULE:NAME) is one of them.

    Raises
    ------
    ConfigError
        If neither is a checkout of this project.
    """
    for folder in (Path.cwd(), Path(__file__).parents[2]):
        if (folder / "server_app.py").exists() and (folder / "pyproject.toml").exists():
            sys.path.insert(0, str(folder))
            return folder
    raise ConfigError(f"no checkout of fedllm in {str(Path.cwd())!r}; run this command inside one")


def recipe_and_pairs(words: Sequence[str] | None) -> tuple[Path | None, list[str]]:
    """Return the recipe that a command line begins with, if it does, and the pairs after it."""
    first, *rest = words or [""]
    return (Path(first), rest) if first.endswith(".toml") else (None, list(words or []))


def merged_config(recipe: Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    """Return a recipe's keys with `key=value` pairs put over them, nested as in the file.

    A value is read as TOML; what is not TOML, or belongs to a key of free text, is a string, so
    that neither `strategy.name=dense` nor `data.labels=20` needs quotes.

    Raises
    ------
    ConfigError
        If the recipe is missing or not TOML, a pair has no `=`, or a key is both value and table.
    """
    merged: dict[str, Any] = {}
    if recipe is not None:
        try:
            merged = tomllib.loads(recipe.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"recipe {str(recipe)!r} can't be read: {error}") from error
    for pair in overrides:
        key, equals, text = pair.partition("=")
        names = key.strip().split(".")
        if not equals or not all(names):
            raise ConfigError(f"override {pair!r} is not KEY=VALUE, e.g. strategy.name=dense")
        table = merged
        for name in names[:-1]:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise ConfigError(f"override {pair!r}: {name!r} is a value, not a namespace")
        if isinstance(table.get(names[-1]), dict):
            raise ConfigError(f"override {pair!r}: {key.strip()!r} is a namespace, not a key")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        if not isinstance(value, str) and is_text(key.strip()):
            value = text.strip()  # data.labels=20, run.name=2026-11-21
        table[names[-1]] = value
    return merged


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that nothing stays behind."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _failure(env: dict[str, str]) -> str:
    """Return why the newest run failed, or "" if it completed."""
    command = [str(SCRIPTS / "flwr"), "list", "--format", "json"]
    listed = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    try:
        run = max(json.loads(listed.stdout)["runs"], key=lambda run: str(run["pending-at"]))
    except (ValueError, KeyError) as error:
        return f"its status is unknown ({error!r}): {listed.stdout or listed.stderr}"
    if run["status"] == "finished:completed":
        return ""
    return f"{run['status']}: {run['status-details']}"


def run_flower(
    app: Path,
    *,
    recipe: Path | None = None,
    overrides: Sequence[str] = (),
    federation: Path | None = None,
    home: Path | None = None,
    timeout_s: float = 0.0,
) -> int:
    """Run the app in simulation, its log on standard output, and return an exit code.

    Parameters
    ----------
    app : folder with the app's pyproject.toml.
    recipe, overrides : run-config file and `key=value` pairs put over it.
    federation : flat settings of the simulation; None is Flower's default, two nodes.
    home : FLWR_HOME to keep; None is a temporary one.
    timeout_s : seconds after which the run is stopped; 0 is never.

    Returns
    -------
    0 completed, 1 refused, failed or timed out (said on standard error), 130 interrupted.

    Raises
    ------
    ConfigError, FedllmError
        See `merged_config` and `local_superlink`.
    """
    config = merged_config(recipe, overrides)
    with tempfile.TemporaryDirectory(prefix="fedllm-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        run_config = scratch / "run-config.toml"
        run_config.write_text(tomli_w.dumps(config), "utf-8")
        command = [str(SCRIPTS / "flwr"), "run", str(app.resolve()), "--stream"]
        command += ["--run-config", str(run_config)] if config else []
        if federation is not None:
            command += ["--federation-config", str(federation.resolve())]
        try:
            with (
                _terminated_like_interrupted(),
                local_superlink(home or scratch, scratch / "superlink.log") as env,
            ):
                cli = subprocess.Popen(command, env=env, cwd=scratch, stdin=subprocess.DEVNULL)
                try:
                    code = cli.wait(timeout_s or None)
                finally:
                    cli.kill()
                    cli.wait()
                why = f"`flwr run` exited with {code}" if code else _failure(env)
        except subprocess.TimeoutExpired:
            why = f"stopped after {timeout_s:g} s (the time-out)"
        except KeyboardInterrupt:
            print("The run was interrupted; its SuperLink is stopped.", file=sys.stderr)
            return 130
    if why:
        print(f"The run failed: {why}", file=sys.stderr)
    return int(bool(why))
