"""Run the app with `flwr run` on a SuperLink of its own, and leave nothing running afterwards.

A failed run is reported as a failure, which `flwr run --stream` does not do: its exit code is 0
whenever the run could be started, so the run's status is asked for at the end.
"""

import contextlib
import json
import math
import shlex
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import tomli_w

from fedllm_app.config import RunConfig, is_text
from fedllm_app.core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    RunFailedError,
)
from fedllm_app.core.settings import flatten
from fedllm_app.deploy.scratch import scratch_folder
from fedllm_app.deploy.superlink import SCRIPTS, local_superlink
from fedllm_app.deploy.watch import Watch
from fedllm_app.run.metrics import iterate_lines
from fedllm_app.run.note import DONE, VARIABLE, Note, make_note, read_note

FEDERATION = "pyproject-federation.toml"
LOOK_S = 0.5
GRACE_S, DONE_S = 7.0, 60.0  # for Flower's own end after a failure, after a run that is whole
# Ends after which the same command would not go on.
FINAL = (DONE, *(e.__name__ for e in (ConfigError, DataError, CheckpointError, RunFailedError)))


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


def asked_config(words: Sequence[str] | None) -> RunConfig:
    """Return the checked configuration of a command line in a checkout: a recipe, and pairs.

    Modules of one's own are found in the checkout from then on.

    Raises
    ------
    ConfigError
        If there is no checkout, or something is wrong with recipe, pairs or settings.
    """
    find_app()
    return RunConfig.parse(flatten(merged_config(*recipe_and_pairs(words))))


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


def _failure(env: Mapping[str, str]) -> str:
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
    with scratch_folder() as scratch:
        run_config, told = scratch / "run-config.toml", scratch / "note"
        run_config.write_text(tomli_w.dumps(config), "utf-8")
        make_note(told)
        own = federation if federation != app / FEDERATION else None
        rest = partial(_rest, told, config, recipe, overrides, own)
        command = [str(SCRIPTS / "flwr"), "run", str(app.resolve()), "--stream"]
        command += ["--run-config", str(run_config)] if config else []
        if federation is not None:
            command += ["--federation-config", str(federation.resolve())]
        try:
            with (
                _terminated_like_interrupted(),
                local_superlink(home or scratch, scratch, {VARIABLE: str(told)}) as (env, guard),
            ):
                cli = subprocess.Popen(command, env=env, cwd=scratch, stdin=subprocess.DEVNULL)
                try:
                    why = _ended(cli, guard, told, env, timeout_s)
                finally:
                    cli.kill()
                    cli.wait()
        except subprocess.TimeoutExpired:
            why = f"stopped after {timeout_s:g} s (the time-out)"
        except KeyboardInterrupt:
            _say("The run was interrupted; its SuperLink is stopped.", rest())
            return 130
        if why:
            _say(f"The run failed: {why}", rest())
    return int(bool(why))


def _ended(
    cli: subprocess.Popen[bytes],
    guard: subprocess.Popen[bytes],
    told: Path,
    env: Mapping[str, str],
    timeout_s: float,
) -> str:
    """Wait for the end of a run, its own or that of a process it needs; return why it failed.

    Raises
    ------
    subprocess.TimeoutExpired
        If it has not ended in time.
    """
    watch, note, dead = Watch(guard), Note(), ""
    deadline, patience = time.monotonic() + (timeout_s or math.inf), math.inf
    while (now := time.monotonic()) < min(deadline, patience):
        with contextlib.suppress(subprocess.TimeoutExpired):
            cli.wait(LOOK_S)
        dead, note = watch.dead(), read_note(told)  # in this order: a run tells first, then goes
        if cli.returncode is not None or (dead and note.folder and not note.ended):
            break
        # What has ended in order takes Flower and Ray down with it, in a time of their own.
        if note.ended or dead:
            patience = min(patience, now + (DONE_S if note.ended == DONE else GRACE_S))
    else:
        if now >= deadline:
            raise subprocess.TimeoutExpired(cli.args, timeout_s)
    watch.kill_orphans()
    if note.ended == DONE and cli.returncode is None:
        return ""  # whole, whatever Flower still waits for
    if note.ended not in ("", DONE):
        return note.why
    if dead and not note.ended and note.folder:
        return f"{dead} died"
    if cli.returncode:
        return f"{dead} died" if dead else f"`flwr run` exited with {cli.returncode}"
    why = _failure(env)
    return why if not dead or why[:8] in ("", "finished") else f"{dead} died"


def _rest(
    told: Path,
    config: Mapping[str, Any],
    recipe: Path | None,
    overrides: Sequence[str],
    federation: Path | None,
) -> str:
    """Return how far a run came and the command that goes on with it, "" if there is nothing."""
    note = read_note(told)
    folder = Path(note.folder)
    files = sorted((folder / "checkpoints").glob("round-*.safetensors")) if note.folder else []
    if not files or note.ended in FINAL:
        return ""
    saved, played = int(files[-1].stem.partition("-")[2]), 0
    with contextlib.suppress(CheckpointError):
        played = max((int(r["round"]) for r in iterate_lines(folder / "metrics.jsonl")), default=0)
    words = ["fedllm", "run", *([str(recipe)] if recipe else []), *overrides]
    words += [] if config.get("run", {}).get("name") else [f"run.name={note.name}"]
    words += ["--federation", str(federation)] if federation else []
    return (
        f"It was in round {played + 1}; all up to round {saved} is saved. This goes on with it:\n"
        f"  {shlex.join(words)}"
    )


def _say(*lines: str) -> None:
    for line in filter(None, lines):
        print(line, file=sys.stderr)
