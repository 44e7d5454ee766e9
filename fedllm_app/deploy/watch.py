"""See which of the processes that a simulation needs has died.

Flower finds out by heartbeats, after most of a minute, and of Ray's processes only what their
absence breaks. The launcher looks at the processes themselves.
"""

import contextlib
import os
import subprocess
from pathlib import Path

import psutil

from fedllm_app.deploy.guard import kill_sessions

ROLES = {
    "flower-superlink": "Flower's SuperLink",
    "flower-superexec": "Flower's SuperExec",
    "flwr-simulation": "Flower's simulation",
    "gcs_server": "Ray's gcs_server",
    "raylet": "Ray's raylet",
}


class Watch:
    """The processes below a guard, by what they are for.

    Parameters
    ----------
    guard : the process that all of them are below.
    """

    def __init__(self, guard: subprocess.Popen[bytes]) -> None:
        self._guard = guard
        self._seen: set[int] = set()
        self._found: dict[str, psutil.Process] = {}
        self._sessions: set[int] = set()

    def dead(self) -> str:
        """Return which of them was there and is not any more, in words; "" if all live.

        Of several it is the one that the others depend on.
        """
        if (code := self._guard.poll()) is not None and code < 0:
            return f"The guard of the SuperLink (process {self._guard.pid})"
        if len(self._found) < len(ROLES):
            self._look()
        dead = [r for r in ROLES if r in self._found and not _lives(self._found[r])]
        return f"{ROLES[dead[0]]} (process {self._found[dead[0]].pid})" if dead else ""

    def kill_orphans(self) -> None:
        """Do the work of a guard that was killed."""
        if self._guard.poll() is not None:
            kill_sessions(self._sessions)

    def _look(self) -> None:
        """Find who has come since."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self._guard.pid).children(recursive=True):
                if child.pid in self._seen:
                    continue
                with contextlib.suppress(psutil.Error, OSError):
                    names = {Path(word).name for word in child.cmdline()[:2]}
                    for role in names & ROLES.keys():
                        self._seen.add(child.pid)
                        self._found.setdefault(role, child)
                        self._sessions.add(os.getsid(child.pid))


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
