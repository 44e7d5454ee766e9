"""A folder for the time of one launch, and the removal of those that killed launchers left.

Each is held by a lock for as long as its launcher lives; the system frees it however that ends.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "fedllm-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a new folder below the system's temporary one, removed at the end."""
    remove_left_behind()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    made, lock = folder / "lock.tmp", folder / "lock"
    try:
        with made.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            made.rename(lock)  # so that it is never there and free
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_left_behind() -> None:
    """Remove the folders of this user's launchers that are dead."""
    for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}????????/lock"):
        with suppress(OSError), lock.open("r+") as file:
            if os.fstat(file.fileno()).st_uid != os.getuid():
                continue
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
