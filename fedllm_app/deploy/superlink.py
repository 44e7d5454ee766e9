"""A private SuperLink for one run: own port, own FLWR_HOME, loopback only, gone afterwards.

The SuperLink that `flwr run` starts by itself listens on a fixed port, is shared with every other
environment on the machine, freezes the environment variables of whoever came first, installs our
dependencies anew for each run, and stays.

Processes: launcher -> guard -> SuperLink -> SuperExec (a session of its own) -> simulation -> Ray.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from fedllm_app.core.errors import FedllmError

SCRIPTS = Path(sys.executable).parent
START_S, STOP_S = 90.0, 15.0
# Despite its name it rules on Linux too: "0" makes a local Ray listen on 127.0.0.1 only.
ON_LOOPBACK = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
GUARD = Path(__file__).with_name("guard.py")


def flower_environment(home: Path) -> dict[str, str]:
    """Return the environment in which Flower's commands run: private, quiet, on loopback.

    All of it is read when the SuperLink starts; changing it later has no effect on that run.
    """
    env = dict(os.environ)
    env |= {
        "PATH": f"{SCRIPTS}{os.pathsep}{env.get('PATH', '')}",
        "PYTHONUNBUFFERED": "1",
        "FLWR_HOME": str(home),
        # Otherwise every run begins with `uv sync`: gigabytes into a fresh environment.
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    # A worker without a share of a GPU is to see none; Ray tells of plans to change that.
    env.setdefault("PYTHONWARNINGS", "ignore::FutureWarning:ray._private.worker")
    if "RAY_ADDRESS" not in env:
        env.setdefault(*ON_LOOPBACK)
        if len(str(home)) < 32:  # Ray's sockets lie below it; a socket's path has about 100 bytes.
            env.setdefault("RAY_TMPDIR", str(home))
    return env


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(guard: subprocess.Popen[bytes], port: int) -> bool:
    """Return whether the guarded command itself listens on the port, not another that took it."""
    with contextlib.suppress(psutil.Error):
        return any(
            c.status == psutil.CONN_LISTEN and c.laddr.port == port
            for child in psutil.Process(guard.pid).children()
            for c in child.net_connections("tcp")
        )
    return False


@contextlib.contextmanager
def guarded(
    command: list[str], env: Mapping[str, str], log: Path, scratch: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in the background; at the end kill it and all that it began.

    Its output goes to `log`, whose folder is its working directory. `scratch` is removed if this
    process is killed.
    """
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-P", str(GUARD), str(scratch or ""), *command],
            env=env,
            cwd=log.parent,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        # A guard that needs longer goes on by itself; the run's own end is not its to tell.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)


@contextlib.contextmanager
def local_superlink(
    home: Path, scratch: Path, more: Mapping[str, str]
) -> Iterator[tuple[dict[str, str], subprocess.Popen[bytes]]]:
    """Start a simulation SuperLink; yield the environment in which `flwr` finds it; stop it.

    Parameters
    ----------
    home : FLWR_HOME.
    scratch : folder for its log, which is of no use once this process has ended.
    more : variables that all of its processes get.

    Yields
    ------
    The environment, and the process of the guard.

    Raises
    ------
    FedllmError
        If it does not listen in time, with the end of its log.
    """
    home.mkdir(parents=True, exist_ok=True)
    env, log = flower_environment(home) | dict(more), scratch / "superlink.log"
    for _ in range(3):  # a free port may be taken before it is used
        port = free_port()
        command = [str(SCRIPTS / "flower-superlink"), "--insecure", "--simulation"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        with guarded(command, env, log, scratch) as process:
            deadline = time.monotonic() + START_S
            while process.poll() is None and time.monotonic() < deadline:
                if listens(process, port):
                    (home / "config.toml").write_text(
                        '[superlink]\ndefault = "private"\n\n[superlink.private]\n'
                        f'address = "127.0.0.1:{port}"\ninsecure = true\n'
                    )
                    yield env, process
                    return
                time.sleep(0.1)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise FedllmError(f"the local SuperLink did not start; the end of its log:\n{tail}")
