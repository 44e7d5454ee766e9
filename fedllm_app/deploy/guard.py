"""Run a command until the pipe on standard input closes, then kill everything that it began.

    python guard.py FOLDER COMMAND [ARGUMENT ...]

The pipe closes when the launcher closes it and also when the launcher is killed, so nothing
outlives it either way. Flower and Ray need more than killing one process: SuperExec has a session
of its own, a simulation does not notice that its SuperLink is gone, and Ray's helpers outlive a
killed simulation as orphans. All of them stay in sessions begun below the command, and whole
sessions are killed. Killed rather than asked: a run's files are safe against it at any moment.
FOLDER, if it is not empty, holds what is worth nothing without the launcher, sockets among it; it
is removed if the launcher was killed before it could do so.

A script of its own, run by its path, so that it needs no installed package.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time

import psutil

KILL_S, LOOK_S = 10.0, 1.0


def session(pid: int) -> int:
    """Return the session of a live process, or -1 if it is dead or somebody else's."""
    with contextlib.suppress(psutil.Error, OSError):
        if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            return os.getsid(pid)
    return -1


def sessions_below(pid: int) -> set[int]:
    """Return the sessions of all processes below one."""
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(pid).children(recursive=True)
        return {session(child.pid) for child in children} - {-1}
    return set()


def kill_sessions(sessions: set[int]) -> None:
    """Kill the processes of these sessions, and those they start meanwhile; wait for their end."""
    deadline = time.monotonic() + KILL_S
    while time.monotonic() < deadline:
        alive = [pid for pid in psutil.pids() if session(pid) in sessions]
        if not alive:
            return
        for pid in alive:
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).kill()
        time.sleep(0.02)


def guard(folder: str, command: list[str]) -> int:
    """Run the command as the module says and return its exit code, 0 if the pipe closed first."""
    launcher = os.getppid()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    closed = threading.Event()

    def watch() -> None:
        os.read(0, 1)
        closed.set()

    threading.Thread(target=watch, daemon=True).start()
    sessions = {child.pid}
    while child.poll() is None and not closed.wait(LOOK_S if len(sessions) > 1 else 0.1):
        # Looked up while the command lives: once it is dead, nobody knows whose they were. One that
        # has ended is forgotten, since its number may become somebody else's.
        below = sessions_below(child.pid) | {child.pid}
        sessions |= below
        if elsewhere := sessions - below:
            sessions -= elsewhere - {session(pid) for pid in psutil.pids()}
    sessions |= sessions_below(child.pid)
    kill_sessions(sessions)
    child.wait()
    if folder and os.getppid() != launcher:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if closed.is_set() else child.returncode


if __name__ == "__main__":
    sys.exit(guard(sys.argv[1], sys.argv[2:]))
